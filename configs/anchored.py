"""Methods that adapt without leaving the zero-shot answer, CLIP frozen: CMKD, SHOT, distillation.

python -m experiments.main --config=configs/anchored.py:source=render,target=stencil
"""

from configs import common

# A linear head that starts at the class texts; without biases it stays a table of class embeddings.
TEXTS = {"class_bias": False}


def methods() -> dict:
    """The methods by name, each with its heads and weights."""
    return {
        "cmkd": {"loss": "cmkd", "heads": TEXTS},
        "shot": {"loss": "shot", "heads": TEXTS},
        "shot_source_free": {"loss": "shot", "heads": TEXTS, "source_weight": 0.0},
        "distill": {"loss": "distill", "heads": TEXTS},
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
