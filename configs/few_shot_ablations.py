"""What CLIP-CITE is made of, taken apart: tables 4 and 6, figures 4, 5, 7 and 9 of its paper.

clipjax suite --study=few_shot --protocols=ablations     base to new, three subsets
clipjax run few_shot_ablations stages="('cite_dva','cite_dva_scl')"

Trained as in `few_shot`, on 16 images of each base class.
"""

from clipjax.configs.recipes import clip_cite, clip_cite_ablations

from clipjax.configs import common, few_shot

LAMBDAS, ETAS = (0.0, 0.3, 0.7, 1.0), (0.0, 0.1, 1.0)  # in names ten times as large
ALPHAS = (0.25, 0.5, 0.75)
PREFIX = "cite_"
# Rows of figure 5.
VARIANTS = {f"alpha {alpha:g}": ("cite_alpha", f"wise_{alpha:g}") for alpha in ALPHAS}
VARIANTS["alpha 1"] = ("cite_alpha", "last")


def groups() -> dict[str, dict[str, dict]]:
    """Return what is compared -> an entry for each row, by name."""
    parts = clip_cite_ablations.methods()
    pick = lambda *names: {PREFIX + name: few_shot.tuned(parts[name]) for name in names}
    layers = [name for name in parts if name.startswith(("first_", "last_"))]
    weights = {
        f"{PREFIX}lambda{10 * lam:.0f}_eta{10 * eta:.0f}": few_shot.tuned(
            clip_cite.entry() | {"contrastive_weight": lam, "distill_weight": eta}
        )
        for lam in LAMBDAS
        for eta in ETAS
    }
    scl, vld = {"contrastive_weight": 0.7}, {"distill_weight": 0.1}
    prompts = {name: few_shot.methods()[name] for name in ("coop", "maple")}
    terms = {
        name + more: entry | given
        for name, entry in prompts.items()
        for more, given in (("", {}), ("_scl", scl), ("_scl_vld", scl | vld))
    }
    alpha = few_shot.tuned(clip_cite.entry() | {"wise": ALPHAS})
    return {
        "losses": pick("dva", "scl", "dva_scl", "dva_vld", "all"),
        "parts": pick("frozen_tc", "frozen_te", "all"),
        "layers": pick(*layers, "dva"),
        "weights": weights,
        "alpha": {f"{PREFIX}alpha": alpha},
        "terms": terms,
    }


def methods() -> dict[str, dict]:
    """Return an entry for each row, by name; rows of several groups run once."""
    return {name: entry for group in groups().values() for name, entry in group.items()}


def get_config(arg: str | None = None):
    """`few_shot_ablations[:source=...,target=...,smoke]`."""
    config = few_shot.get_config()
    config.experiment = "few_shot_ablations"
    config.methods, config.stages = methods(), tuple(methods())
    config.data.classes = "base"
    if common.apply_arg(config, arg):
        few_shot.shorten(config)
        config.stages = (f"{PREFIX}dva", f"{PREFIX}alpha")
    return config
