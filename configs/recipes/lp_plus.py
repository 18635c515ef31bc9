"""LP++ (Huang et al. 2024, arXiv 2404.02285): a linear probe beside each class's text.

clipjax run recipes/lp_plus

300 full-batch steps whose rates come from the features; nothing is tuned. `lp_plus_code` is as the
published code has it, where alpha's gradient is never cleared and sums up over the run.

On the embedded data, as `few_shot` has it (docs/few-shot.md), 1, 4 and 16 images a class, three
subsets, test accuracy in % on render: 46.8 ± 1.2, 46.0 ± 1.2, 46.7 ± 0.2; trained on base classes
60.5 ± 0.8 on these. Zero-shot has 46.2, and 59.6 and 40.4.
"""

from clipjax.configs import common


def methods() -> dict[str, dict]:
    """Return an entry for each form, by name."""
    return {
        "lp_plus": {"loss": "lp_plus"},
        "lp_plus_code": {"loss": "lp_plus", "accumulates": True},
    }


def get_config(arg: str | None = None):
    """`recipes/lp_plus[:source=...,target=...,smoke]`; data.shots is 16."""
    config = common.few_shots()
    config.experiment = "lp_plus"
    config.methods, config.stages = methods(), tuple(methods())
    common.apply_arg(config, arg)
    return config
