"""CLIP-CITE's two terms added to CoOp: table 6 of arXiv 2407.04003.

clipjax run recipes/clip_cite_terms
clipjax run recipes/coop methods.coop.contrastive_weight=0.7 methods.coop.distill_weight=0.1

The contrastive loss (`scl`) and the distillation of similarities (`vld`) are options of every
method that answers by texts; with the weights of CLIP-CITE here. CoOp learns four words for 50
epochs, a quarter of its own length.

On the embedded data, 16 images a class where there are as many, 3 seeds, test accuracy in %
(standard deviation over seeds) on render, the source, and stencil, and the mean of the four others:
zero-shot 46.2, 35.4, 41.0; CoOp 49.0 (0.9), 35.3 (0.9), 40.4; with SCL 48.5 (0.7), 34.5 (1.6),
40.0; with VLD 48.7 (0.6), 35.4 (1.2), 41.0; with both 48.3 (0.2), 34.2 (1.4), 40.2. No difference
between the four is larger than chance: one accuracy has a standard error of 3.1 points.
"""

from clipjax.configs.recipes import coop

from clipjax.configs import common

EPOCHS = 50


def methods() -> dict[str, dict]:
    """Return an entry for each combination of terms, by name."""
    scl, vld = {"contrastive_weight": 0.7}, {"distill_weight": 0.1}
    added = {"coop": {}, "coop_scl": scl, "coop_vld": vld, "coop_both": scl | vld}
    return {name: coop.entry(EPOCHS) | terms for name, terms in added.items()}


def get_config(arg: str | None = None):
    """`recipes/clip_cite_terms[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "clip_cite_terms"
    config.data.shots, config.data.shots_missing = 16, "all"  # the embedded data have fewer
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.data.shots = 1
        for name in config.stages:
            config.methods[name].epochs = 2
    return config
