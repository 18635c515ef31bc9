"""Early stopping: a run ends when validations get no better, and its best epoch is taken.

clipjax run recipes/early_stopping
clipjax run recipes/early_stopping patience=0      all 300 epochs, of which the best is taken too

The score is the accuracy on the source's validation images, after every second epoch; ten
validations without a better one end the run (Prechelt 1998). All seeds of a program end together,
each judged by its own. A head of one hidden layer fits 448 images in that time; `linear`, which
starts at zero-shot, has less to lose.
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`recipes/early_stopping[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "early_stopping"
    config.epochs, config.save_every = 300, 2
    config.selection, config.patience = "source_val", 10
    config.optim.schedule = "constant"
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.epochs = 4
    return config


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name."""
    return {
        "hidden": {"loss": "finetune", "heads": {"classifier": (256,)}},
        "linear": {"loss": "finetune", "heads": {}},
    }
