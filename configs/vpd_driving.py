"""Cityscapes to ACDC with Stable Diffusion: VPD, Domino-Add and -Sub. Never run on the real sets.

clipjax run vpd_driving data.root=/data

Data, steps, optimizer, crops and windows are configs/domino_driving.py's. Maps are those of Stable
Diffusion 1.5, whose UNet trains at a tenth of the rate; {none, add, sub} of W on its prompts x
{plain, Domino} norms of an FPN head of 256 channels, in the form of the paper's table 2. CLIP
ViT-L/14 reads W. Nothing of it was run: neither these weights nor these images were at hand, and
no accelerator. `smoke` takes small crops, one pass, and a small model of random weights, frozen and
in float32, under the three rows with Domino's norms; free, it is `vpd_smoke diffusion.unet=free`.
"""

from ml_collections import ConfigDict

from clipjax.configs import common, domino, domino_driving

PROMPTS, NORMS = ("none", "add", "sub"), ("plain", "domino")


def methods() -> dict[str, dict]:
    """Return name -> fields of every row."""
    found = {}
    for prompt in PROMPTS:
        for norm in NORMS:
            words = ["vpd", *(word for word in (prompt, norm) if word not in ("none", "plain"))]
            fields = {"decoder": "fpn", "prompt": prompt, "norm": norm}
            found["_".join(words)] = domino.fields() | fields
    return found


def get_config(arg: str | None = None) -> ConfigDict:
    """`--config=configs/vpd_driving.py[:root=/data,model=ID,smoke]`."""
    config = domino_driving.get_config()
    config.model = "openai/clip-vit-large-patch14"
    config.diffusion.update(
        model="stable-diffusion-v1-5/stable-diffusion-v1-5",
        unet="free",
        factor=0.1,
        compute_dtype="bfloat16",
        remat="blocks",
    )
    config.methods = methods()
    if common.apply_arg(config, arg):
        config.model = "tiny"
        # A CPU compiles a free UNet, bfloat16, recomputed blocks, two kinds of norm for minutes.
        config.diffusion.update(model="random", prompts="simple", unet="frozen")
        config.diffusion.update(compute_dtype="float32", remat="none")
        config.data.update(train=2, test=1, resize=(64, 128), crop=(64, 64))
        config.data.update(window=(64, 64), stride=(64, 48))
        config.epochs, config.batch_size, config.width = 1, 2, 8
        config.methods = {name: x for name, x in methods().items() if x["norm"] == "domino"}
    return config
