"""SWAD: the mean of every step in the valley of the validation loss, beside SWA, EMA and none.

clipjax run recipes/swad

Cha et al. 2021 (arXiv 2102.08604): a constant rate, the source's validation loss after every epoch,
and the average of all steps from where it has converged to where it rises by 30 %. `swad` and
`swa`, the mean of the last ten epochs' ends, and `ema` differ in nothing else, so "last" of each is
the same; here all train a linear head from zero-shot. The paper trains whole networks.

On the embedded data, 40 epochs, test accuracy in % on render (the source), stencil and the mean of
all five other styles, ± standard deviation over seeds 0 to 2: zero-shot 46.2, 35.4, 39.8; last
51.8 ± 0.2, 26.8 ± 0.6, 38.9 ± 0.0; the last ten epochs' mean 52.3 ± 0.0, 28.8 ± 0.0, 39.4 ± 0.0,
EMA 52.3 ± 0.0, 28.8 ± 0.0, 39.5 ± 0.0, SWAD 52.9 ± 0.2, 30.9 ± 0.6, 40.0 ± 0.2. SWAD took epochs 8
or 9 to 40: the loss never rose by 30 %. So every average is better than the end, most where the end
has forgotten most; what SWAD adds is an earlier start, nearer to zero-shot, and one accuracy has a
standard error of 3.1 points.
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`recipes/swad[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "swad"
    config.epochs, config.save_every = 40, 1
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.epochs = 6
        config.methods.swa.average = {"every": "epoch", "last": 3}
    return config


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name."""
    usual = {"loss": "finetune", "heads": {}, "optim": {"lr": 1e-2, "schedule": "constant"}}
    return {
        "swad": usual | {"average": {"kind": "swad"}},
        "swa": usual | {"average": {"every": "epoch", "last": 10}},
        "ema": usual | {"average": {"kind": "ema", "decay": 0.98}},
    }
