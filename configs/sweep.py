"""24 runs in one go: a head and DANN at several rates and lambdas, three seeds each.

clipjax run sweep

`report.html` and `results.md` put the settings side by side; validation data pick the best.
"""

from clipjax.configs import common, dann


def get_config(arg: str | None = None):
    """`--config=configs/sweep.py[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "sweep"
    config.stages = ("finetune", "dann")
    config.methods.finetune = common.mlp_head()
    config.methods.dann = dann.get_config().methods.dann
    # The head at 2 rates; DANN at the same 2 and 3 lambdas: 8 settings.
    config.sweep = ({"optim.lr": (1e-3, 3e-3), "methods.dann.lam_max": (0.1, 0.3, 1.0)},)
    if common.apply_arg(config, arg):
        config.epochs = 2
    return config
