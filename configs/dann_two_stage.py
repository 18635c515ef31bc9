"""DANN in two stages for full-size CLIPs: heads behind a frozen encoder, then the image tower too.

clipjax run dann_two_stage model=openai/clip-vit-base-patch16
clipjax compile --topology=v5e:2x4 --model=vit_b16

Table 6's method with lambda to 0.3 (`configs/tables.py:6` has it beside the others). The towers
compute in bfloat16 and each block's inside is computed again in the backward pass: what a chip of
16 GB needs for ViT-L/14.
"""

from clipjax.configs import common, tables


def get_config(arg: str | None = None):
    """`--config=configs/dann_two_stage.py[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "dann_two_stage"
    config.stages = ("two_stage",)
    config.methods.two_stage = tables.methods(6)["domain_loss_max03"]
    config.compute_dtype = "bfloat16"
    config.remat = "blocks"
    config.save_every = 4
    if common.apply_arg(config, arg):
        tables.shorten(config)
    return config
