"""Model soups: the mean of the weights of a sweep's heads, all of them or those that help.

clipjax run recipes/soups
clipjax run recipes/soups methods.head.soup.over=settings     a soup for each seed, with a spread

Wortsman et al. 2022 (arXiv 2203.05482): many runs from the same weights, here a linear head that
starts at zero-shot, at six settings with three seeds each; "uniform" is the mean of all, "greedy" of
those that do not harm the accuracy on the source's validation images, taken in from the best on.
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`recipes/soups[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "soups"
    config.stages = ("head",)
    config.methods.head = {"loss": "finetune", "heads": {}, "soup": {}}
    config.sweep = ({"optim.lr": (3e-4, 1e-3, 3e-3), "methods.head.label_smoothing": (0.0, 0.1)},)
    if common.apply_arg(config, arg):
        config.epochs = 2
    return config
