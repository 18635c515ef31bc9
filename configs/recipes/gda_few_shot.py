"""Gaussian discriminant analysis beside the texts (Wang et al. 2024, arXiv 2402.04087).

clipjax run recipes/gda_few_shot

No training. Alpha is chosen on the source's validation images; new classes take 64 neighbours.
"""

from clipjax.configs import common


def methods() -> dict[str, dict]:
    """Return the method's entry."""
    return {"gda_few_shot": {"loss": "gda_few_shot", "neighbours": 64, "copies": 16}}


def get_config(arg: str | None = None):
    """`recipes/gda_few_shot[:source=...,target=...,smoke]`; data.shots is 16."""
    config = common.few_shots()
    config.experiment = "gda_few_shot"
    config.methods, config.stages = methods(), tuple(methods())
    common.apply_arg(config, arg)
    return config
