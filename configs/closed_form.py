"""Methods without steps, fitted at once on cached features.

clipjax run closed_form
"""

from clipjax.configs import common


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name."""
    return {
        "prompts_chosen": {"loss": "prompts"},
        "prompts_ensemble": {"loss": "prompts", "take": "texts"},
        "debias": {"loss": "debias", "tau": 0.5},
        "logistic": {"loss": "logistic", "match": "coral", "strength": 0.02},
        "gda": {"loss": "gda", "match": "coral"},
        "blend": {"loss": "blend", "kind": "logistic"},
        "blend_gda": {"loss": "blend", "kind": "gda"},
        "stata": {"loss": "stata", "anchor": "text"},
    }


def get_config(arg: str | None = None):
    """`--config=configs/closed_form.py[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "closed_form"
    config.methods, config.stages = methods(), tuple(methods())
    common.apply_arg(config, arg)
    return config
