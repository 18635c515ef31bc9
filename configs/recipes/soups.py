"""Model soups: the mean of the weights of a sweep's heads, all of them or those that help.

clipjax run recipes/soups
clipjax run recipes/soups methods.head.soup.over=settings     a soup for each seed, with a spread

Wortsman et al. 2022 (arXiv 2203.05482): many runs from the same weights, here a linear head that
starts at zero-shot, at six settings with three seeds each; "uniform" is of all, "greedy" of
those that do not harm the accuracy on the source's validation images, taken in from the best on.

On the embedded data, 40 epochs of the head alone, test accuracy in % on render (the source),
stencil and the mean of all five other styles, ± standard deviation over seeds 0 to 2: zero-shot
46.2, 35.4, 39.8; the six settings 48.6 to 52.1, 37.2 to 38.5, 41.2 to 43.0 (± at most 0.6), of
which rate 3e-3 with smoothing 52.1 ± 0.2, 37.7 ± 0.0, 43.0. The soup of all 18 runs 50.8, 37.3,
42.2, the greedy one (10 of 18) 49.6, 37.7, 41.9; a soup for each seed 50.6 ± 0.8, 37.2 ± 0.2, 42.2
and greedy (3 or 4 of 6) 49.2 ± 0.4, 37.8 ± 0.2, 42.0. So a soup is about the mean of its settings
here, and below the best of them; 79 validation images cannot tell the settings apart (50.6 % for
the best and for every soup). What the paper claims is of whole networks, which were not run.
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
