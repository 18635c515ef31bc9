"""Sizes of published CLIPs by name."""

from clipjax.errors import ConfigError
from clipjax.model.clip import CLIPConfig, TextConfig, VisionConfig

_TEXT_B = TextConfig(512, 2048, 12, 8)
_TEXT_L = TextConfig(768, 3072, 12, 12)
_TEXT_H = TextConfig(1024, 4096, 24, 16, "gelu")

# B and L: OpenAI's (Radford et al. 2021, table 20). H and g: OpenCLIP's (Cherti et al. 2023, arXiv
# 2212.07143) as Hugging Face has them, whose MLPs have GELU.
SHAPES = {
    "vit_b32": CLIPConfig(VisionConfig(768, 3072, 12, 12, patch_size=32), _TEXT_B, 512),
    "vit_b16": CLIPConfig(VisionConfig(768, 3072, 12, 12, patch_size=16), _TEXT_B, 512),
    "vit_l14": CLIPConfig(VisionConfig(1024, 4096, 24, 16, patch_size=14), _TEXT_L, 768),
    "vit_l14_336": CLIPConfig(
        VisionConfig(1024, 4096, 24, 16, image_size=336, patch_size=14), _TEXT_L, 768
    ),
    "vit_h14": CLIPConfig(VisionConfig(1280, 5120, 32, 16, "gelu", patch_size=14), _TEXT_H, 1024),
    "vit_g14": CLIPConfig(VisionConfig(1408, 6144, 40, 16, "gelu", patch_size=14), _TEXT_H, 1024),
}


def named_shape(name: str) -> CLIPConfig:
    """Return the sizes of a published CLIP; raise ConfigError for an unknown name."""
    if name not in SHAPES:
        raise ConfigError(f"there is no model shape {name!r}; known: {', '.join(SHAPES)}.")
    return SHAPES[name]
