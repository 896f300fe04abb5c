"""Pictures of an allocation: budgets over the image, what the model saw, where the scorers look, pages of several.

Plain Pillow and HTML, no plotting library and no web framework: the command line, the report and the demo draw with
the same functions.
"""

from .boxes import Box, grid_boxes, patch_boxes
from .heat import draw_heat
from .overlay import draw_allocation, draw_budgets, draw_seen, seen_grids
from .page import contact_sheet, stack, titled
from .style import contrast, font, palette, shade
from .views import draw_plain, draw_views, spread_views

__all__ = [
    "Box",
    "contact_sheet",
    "contrast",
    "draw_allocation",
    "draw_budgets",
    "draw_heat",
    "draw_plain",
    "draw_seen",
    "draw_views",
    "font",
    "grid_boxes",
    "palette",
    "patch_boxes",
    "seen_grids",
    "shade",
    "spread_views",
    "stack",
    "titled",
]
