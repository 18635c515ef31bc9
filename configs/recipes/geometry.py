"""Geometry-preserving penalties: fine-tuning both towers, with and without them."""

from clipjax.configs import common

FREE = {"loss": "finetune", "heads": {"text": True}, "freeze": ()}
OPTIM = {"lr": 1e-4, "weight_decay": 0.1, "warmup": 0.1, "warmup_kind": "linear_next"}


def get_config(arg: str | None = None):
    """`recipes/geometry[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "geometry"
    epochs = 1 if common.apply_arg(config, arg) else 10
    config.data.domains = (config.data.source or "render", config.data.target or "stencil")
    config.forgetting.name = "emoji_regrouped"
    held = {
        "finetune": None,
        "embedding": {"embedding": 1.0},
        "similarity": {"similarity": 10.0},
        "both": {"embedding": 1.0, "similarity": 10.0},
    }
    config.stages = tuple(held)
    for name, preserve in held.items():
        config.methods[name] = FREE | {"epochs": epochs, "optim": OPTIM}
        if preserve:
            config.methods[name].preserve = preserve
    return config
