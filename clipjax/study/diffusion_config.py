"""The part of a segmentation run's config that says which Stable Diffusion makes its maps."""

import dataclasses

from clipjax.errors import ConfigError
from clipjax.model.prompts import fill_prompts
from clipjax.study.fields import field


@dataclasses.dataclass(frozen=True)
class DiffusionBackbone:
    """Stable Diffusion 1.x or 2.x as VPD takes it; its text adapter always trains."""

    model: str = field(
        "",
        "a Hub id or a directory in diffusers' layout, whose maps decoders get; model then reads "
        "W alone; random: a small one of random weights, a smoke test; none: model's maps",
    )
    prompts: str | tuple[str, ...] = field(
        "ensemble",
        "of classes: a set of clipjax.model.prompts, 80 in VPD's code and in ensemble; a template "
        "with {}, or several",
    )
    unet: str = field("frozen", "free: it trains, too", known=("frozen", "free"))
    factor: float = field(
        0.1,
        "on the rate, of a free UNet",
        fits=lambda value: value > 0,
        give="a number above 0",
    )
    scale_latents: bool = field(
        False, "latents times the VAE's factor, which VPD's code leaves out"
    )
    timestep: int = field(1, "that the UNet is told; VPD's paper says 0", low=0, high=999)
    compute_dtype: str = field("float32", "of its activations", known=("float32", "bfloat16"))
    remat: str = field(
        "none", "what the backward pass keeps of a block", known=("none", "dots", "blocks")
    )

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        usual = DiffusionBackbone()
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value == getattr(usual, each.name):
                continue
            if not self.model:
                return f"{each.name}={value} has no effect without a model; name one."
            if each.name == "factor" and self.unet == "frozen":
                return f"factor={value} has no effect on a frozen UNet; take unet=free."
        try:
            fill_prompts("class", self.prompts)
        except ConfigError as error:
            return f"prompts: {error}"
        return ""
