"""Methods without steps, fitted at once on cached features.

python -m experiments.main --config=configs/closed_form.py
"""

from configs import common


def get_config(arg: str | None = None):
    """`--config=configs/closed_form.py[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "closed_form"
    config.stages = ("debias", "logistic", "gda", "blend", "blend_gda", "stata")
    config.methods.debias = {"loss": "debias", "tau": 0.5}
    config.methods.logistic = {"loss": "logistic", "match": "coral", "strength": 0.02}
    config.methods.gda = {"loss": "gda", "match": "coral"}
    config.methods.blend = {"loss": "blend", "kind": "logistic"}
    config.methods.blend_gda = {"loss": "blend", "kind": "gda"}
    config.methods.stata = {"loss": "stata", "anchor": "text"}
    common.apply_arg(config, arg)
    return config
