"""The classics of unsupervised domain adaptation on cached features, CLIP frozen.

clipjax run classics source=render target=stencil

Each domain goes through statistics of its own first (`align`): that is worth more than most of
these losses, and small, strongly regularised heads are worth more than deep ones.
"""

from clipjax.configs import common

STAGES = (
    "head_aligned", "head_coral", "dann_aligned", "cdan", "deep_coral", "dan", "jan", "mcc", "afn",
    "bnm", "mcd",
)  # fmt: skip


def get_config(arg: str | None = None):
    """`--config=configs/classics.py[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "classics"
    config.stages = STAGES
    config.methods = methods()
    if common.apply_arg(config, arg):
        config.epochs = 2
    return config


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name."""
    # A linear head; a layer in front of it where the method moves features.
    small = {"align": "standardise", "optim": {"weight_decay": 1.0}, "label_smoothing": 0.1}
    linear, layer = small | {"heads": {}}, small | {"heads": {"adapter": (128,)}}
    trunk = {"adapter": (256, 256, 256), "classifier": (256,), "discriminator": (256,)}
    faster = (("discriminator", 10.0),)  # a discriminator that keeps up
    return {
        "head_aligned": linear | {"loss": "finetune"},
        "head_coral": linear | {"loss": "finetune", "align": "coral"},
        # The report's network and lambda, on aligned inputs.
        "dann_aligned": {
            "loss": "dann",
            "align": "standardise",
            "label_smoothing": 0.1,
            "lam_max": 0.3,
            "heads": trunk,
            "optim": {"lr": 3e-4, "lr_mults": faster},
        },
        "cdan": layer
        | {
            "loss": "cdan",
            "heads": {"adapter": (128,), "discriminator": (256,)},
            "lam_max": 0.3,
        },
        "deep_coral": layer | {"loss": "coral"},
        "dan": layer | {"loss": "mmd"},
        "jan": layer | {"loss": "mmd", "joint": True},
        "mcc": linear | {"loss": "mcc"},
        "afn": layer | {"loss": "afn"},
        "bnm": linear | {"loss": "bnm"},
        "mcd": layer | {"loss": "mcd", "heads": {"adapter": (128,), "members": 2}},
    }
