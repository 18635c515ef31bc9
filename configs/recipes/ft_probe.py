"""FT-Probe: the image tower and a linear head that starts at the texts, trained by few images.

clipjax run recipes/ft_probe

A competitor in CLIP-CITE's paper (arXiv 2407.04003, figure 1), which says nothing of how it is
trained: cross-entropy, with the optimizer, crops, batches and length of CLIP-CITE. The head is a
table of class weights without biases, so that it starts exactly at zero-shot.

On the embedded data, as `few_shot` has it (20 steps of 16 images, docs/few-shot.md), 1, 4 and 16
images a class, three subsets, test accuracy in % on render: 47.8 ± 1.2, 49.1 ± 0.6, 48.1 ± 1.0;
trained on base classes 64.2 ± 1.4 on these. Zero-shot has 46.2, and 59.6 and 40.4.
"""

from clipjax.configs.recipes import clip_cite

from clipjax.configs import common


def entry() -> dict:
    """Return the method, trained as CLIP-CITE is."""
    shared = ("epochs", "batch_size", "augment", "optim")
    trained = {key: clip_cite.entry()[key] for key in shared}
    return {"loss": "finetune", "heads": {"class_bias": False}, "freeze": ()} | trained


def get_config(arg: str | None = None):
    """`recipes/ft_probe[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "ft_probe"
    config.stages = ("ft_probe",)
    config.data.shots, config.data.shots_missing = 16, "all"  # the embedded data have fewer
    config.methods.ft_probe = entry()
    if common.apply_arg(config, arg):
        config.data.shots, config.methods.ft_probe.epochs = 1, 1
    return config
