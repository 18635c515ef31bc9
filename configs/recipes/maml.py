"""MAML and ANIL on heads: a start from which a few gradient steps on few examples go far.

clipjax run recipes/maml

On the embedded data, 1000 episodes of 12 classes that training never saw, 5-way 5-shot, % ± 95 %
confidence, 3 seeds: on render ANIL 73.7 ± 0.4, MAML of first order 72.8 ± 0.4, of second order
75.4 ± 0.4; on stencil 62.1 ± 0.5, 61.8 ± 0.5 and 63.2 ± 0.5, with spreads over seeds of 0.62,
0.28, 0.44 and 1.06, 0.32, 0.86. One setting (rate 0.5, 5 steps), not a sweep. Class means of CLIP's
own features, which train nothing, have 77.1 ± 0.4 and 69.5 ± 0.5: here none of the three is worth
its time.
"""

from clipjax.configs.recipes.protonet import EPISODES

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`recipes/maml[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment, config.epochs = "maml", 20
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.epochs = 1
    return config


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name."""
    episodes = EPISODES | {"tasks": 4}
    usual = {"loss": "maml", "heads": {"adapter": (256,)}, "episodes": episodes}
    return {
        "anil": usual | {"inner": "classifier", "rate": 0.5},
        "maml_first": usual | {"inner": "all", "rate": 0.5, "first_order": True},
        "maml": usual | {"inner": "all", "rate": 0.5},
    }
