"""Gaussian discriminant analysis beside the texts (Wang et al. 2024, arXiv 2402.04087).

clipjax run recipes/gda_few_shot

No training. Alpha is chosen on the source's validation images; new classes take 64 neighbours. The
code fits ten augmented views of an image; here it is seen once, as it is.

On the embedded data, as `few_shot` has it (docs/few-shot.md), 1, 4 and 16 images a class, three
subsets, test accuracy in % on render: 30.6 ± 3.6, 46.4 ± 0.6, 46.5 ± 0.7; trained on base classes
61.6 ± 0.7 on these and 39.5 ± 0.9 on new ones. Zero-shot has 46.2, and 59.6 and 40.4.
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
