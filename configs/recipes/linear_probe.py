"""Linear probes of CLIP's frozen image tower: closed forms, and trained from two starts.

clipjax run recipes/linear_probe

On the embedded data, test accuracy in %, mean ± standard deviation over 3 seeds, on render (the
source) and stencil: closed form 50.4 and 28.1 (C = 0.01 is chosen), from zero-shot 50.5 ± 0.6 and
38.5 ± 0.0, from a random start 52.6 ± 0.4 and 22.2 ± 0.4; zero-shot itself has 46.2 and 35.4. What
forgets the texts wins on the source and loses more on the target.

With a tenth of the data the probe from zero-shot has 47.5 on render and 40.8 on the mean of the
other styles, that from a random start 37.0 and 30.3 (docs/robust-fine-tuning.md).
"""

from clipjax.adapt.probe import COOP
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
        # Of CoOp's few-shot tables, with data.shots.
        "probe_coop": {"loss": "probe", "strengths": COOP, "rounds": 8},
        "probe_zero_shot": trained | {"heads": {}},
        # On features of length 1 a random head needs larger steps (the paper's are not normalised).
        "probe_random": {
            "loss": "finetune",
            "heads": {"start": "random"},
            "optim": {"lr": 3e-2, "weight_decay": 1e-4},
        },
    }
