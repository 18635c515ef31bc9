"""Methods that adapt without leaving the zero-shot answer, CLIP frozen: CMKD, SHOT, distillation.

python -m experiments.main --config=configs/anchored.py:source=render,target=stencil

Weights are the published ones; the pull of CMKD to the zero-shot answer (`anchor`), the rates and
the debiased teacher are not: with them no pair of styles of the embedded data was seen to end below
zero-shot.
"""

from configs import common


def methods() -> dict:
    """The methods by name, each on a linear head that starts as the zero-shot classifier."""
    # Biases take a style's preference for some classes away; they have further to go than weights.
    optim = {"lr": 3e-3, "lr_mults": ((".*/bias", 10.0),)}
    texts = {"heads": {}, "optim": optim, "label_smoothing": 0.1}
    cmkd = {"gini_weight": 0.25, "text_weight": 0.1, "text_gini_weight": 0.025}
    shot = {"anchor": 1.0, "entropy_weight": 1.0, "diversity_weight": 1.0}
    return {
        "cmkd": {"loss": "cmkd", "anchor": 1.0} | cmkd | texts,
        "shot": {"loss": "shot", "source_weight": 1.0} | shot | texts,
        "shot_source_free": {"loss": "shot", "source_weight": 0.0} | shot | texts,
        "distill": {"loss": "distill", "calibration": "likelihood", "debias": 0.5} | texts,
    }


def get_config(arg: str | None = None):
    """`--config=configs/anchored.py[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "anchored"
    config.methods = methods()
    config.stages = tuple(config.methods)
    # Class-balanced terms compare the examples of a batch, of which there should be some a class.
    config.batch_size = 224
    if common.apply_arg(config, arg):
        config.epochs = 2
    return config
