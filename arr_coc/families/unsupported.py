"""The image-text-to-text models of transformers that are not supported, and why.

Together with the families this names every model type of ``AutoModelForImageTextToText``; a test compares it with the
installed transformers.
"""

from __future__ import annotations

CHECKED = (5, 24)
"""The version of transformers whose every model type was looked at."""

_CROSS = "its text attends to the image by cross-attention: no placeholder stands for a visual token"
_ENCODER_DECODER = "an encoder-decoder: no placeholder stands for a visual token in the decoder's prompt"
_QUERIES = "learned queries read the image: its visual tokens are no grid, so none of them belongs to a patch"
_DISCRETE = "its visual tokens are discrete codes, each standing for a word of its vocabulary"
_AHEAD = "it puts image features in front of the prompt by its own code, without mm_encoder_outputs"
_LOCAL = "local tiles and an overview come by inputs of their own (a layout without a file here)"
_POSITIONS = "its position axes are (width, height, image number), and its language model takes no text axis in front"

UNSUPPORTED: dict[str, str] = {
    "apertus1p5": _DISCRETE,
    "aria": _QUERIES,
    "blip": _CROSS,
    "blip-2": _QUERIES,
    "chameleon": _DISCRETE,
    "deepseek_ocr2": _QUERIES,
    "diffusion_gemma": "it writes blocks by diffusion, by a generate of its own, and forward wants a canvas",
    "emu3": _DISCRETE,
    "evolla": "it sees proteins, not images",
    "florence2": _ENCODER_DECODER,
    "fuyu": "its features go in as last_hidden_state, which no beam gets, and no input states their grid",
    "gemma3n": "its tower gives 16 x 16 tokens whatever the picture; not tried, for want of a tiny one to check it on",
    "git": _AHEAD,
    "granite4_vision": "its features are (layer, rows) pairs in deepstack_features, which no beam gets",
    "hunyuan_vl": _POSITIONS,
    "hy_v4_vl": "a newline feature follows each row of image_grid_thw (a layout without a file here)",
    "idefics": _CROSS,
    "idefics2": _QUERIES,
    "inkling2": "pixel_values holds one picture per visual token, channels last (a layout without a file here)",
    "inkling2_loop": "pixel_values holds one picture per visual token, channels last (a layout without a file here)",
    "inkling_mm_model": "no input says how many rows and columns its picture patches make",
    "instructblip": _QUERIES,
    "instructblipvideo": _QUERIES,
    "kosmos-2": _QUERIES,
    "kosmos-2.5": _QUERIES,
    "llama4": "its forward with images fails in transformers 5.24 (its language model's output has no image_outputs)",
    "minicpm_ocr": "images lie in one long row of target_sizes, merged in windows (a layout without a file here)",
    "minicpmv4_6": "images lie in one long row of target_sizes, merged in windows (a layout without a file here)",
    "minicpmv4_7": "images lie in one long row of target_sizes, merged in windows (a layout without a file here)",
    "mistral4": "it sees no images",
    "mllama": _CROSS,
    "molmo2": "its pooling reads cells of overview and crops by image_token_pooling (a layout without a file here)",
    "nemotron_h_omni": "image_grid_hw, and features made outside a base model (a layout without a file here)",
    "pi0": "it moves a robot: no words are generated",
    "pix2struct": _ENCODER_DECODER,
    "pp_formulanet": _ENCODER_DECODER,
    "step3p7": _LOCAL,
    "t5gemma2": _ENCODER_DECODER,
    "udop": _ENCODER_DECODER,
    "unlimited_ocr": _LOCAL,
    "vision-encoder-decoder": _ENCODER_DECODER,
}
