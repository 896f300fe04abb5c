"""Pictures of chat completions, read as everywhere else: by `arr_coc.asking.images`, in a process under limits.

vLLM's own way decodes in the server, and opens any address that a client names: one of the network inside, too.
"""

from __future__ import annotations

from typing import Any

from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector
from vllm.multimodal.media.base import MediaWithBytes
from vllm.multimodal.media.image import ImageMediaIO

from ...asking.images import read_image
from ...serving.config import ServeConfig
from .names import PLUGIN


class Pictures(ImageMediaIO):
    """From bytes to an upright RGB picture."""

    def load_bytes(self, data: bytes) -> Any:
        """As of vLLM's; raises ValueError for what is no picture."""
        return MediaWithBytes(read_image(data, max_pixels=ServeConfig.pixels), data)


@MEDIA_CONNECTOR_REGISTRY.register(PLUGIN)
class Connector(MediaConnector):
    """What ``VLLM_MEDIA_CONNECTOR=arr_coc`` names; it opens addresses only with ``--allowed-media-domains``."""

    def load_from_url(self, url: str, media_io: Any, **more: Any) -> Any:
        """As of vLLM's."""
        return super().load_from_url(url, self._ours(url, media_io), **more)

    async def load_from_url_async(self, url: str, media_io: Any, **more: Any) -> Any:
        """As of vLLM's."""
        return await super().load_from_url_async(url, self._ours(url, media_io), **more)

    def _ours(self, url: str, media_io: Any) -> Any:
        if not url.startswith(("data:", "file:")) and not self.allowed_media_domains:
            raise ValueError(
                "addresses are not opened here; send the picture itself, data:image/png;base64,... (who runs the "
                "server may allow some by --allowed-media-domains)"
            )
        return Pictures() if isinstance(media_io, ImageMediaIO) else media_io
