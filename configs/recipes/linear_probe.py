"""Linear probes of CLIP's frozen image tower: closed form, and trained from two starts.

clipjax run recipes/linear_probe
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`recipes/linear_probe[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "linear_probe"
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.epochs = 2
    return config


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name."""
    trained = {"loss": "finetune", "optim": {"weight_decay": 1e-4}}
    return {
        "probe": {"loss": "probe"},
        "probe_zero_shot": trained | {"heads": {}},
        # On features of length 1 a random head needs larger steps (the paper's are not normalised).
        "probe_random": {
            "loss": "finetune",
            "heads": {"start": "random"},
            "optim": {"lr": 3e-2, "weight_decay": 1e-4},
        },
    }
