"""What CLIP-CITE is made of, taken apart: tables 4 and 6, figures 4, 5, 7 and 9 of its paper.

clipjax suite --study=few_shot --protocols=ablations     base to new, three subsets
clipjax run few_shot_ablations stages="('cite_dva','cite_dva_scl')"

Trained as in `few_shot`, on 16 images of each base class: 22 runs a seed, some 15 minutes of a core
for three seeds. Rows of CLIP-CITE are half way back (alpha 0.5), as the paper's, and beside them as
trained. Of lambda and eta one varies while the other stays at the paper's value.
"""

from clipjax.configs.recipes import clip_cite, clip_cite_ablations

from clipjax.configs import common, few_shot

LAMBDA, ETA = 0.7, 0.1
LAMBDAS, ETAS = (0.3, 1.0), (1.0,)  # further values; in names ten times as large
ALPHAS = (0.25, 0.5, 0.75)
FROZEN = (1, 3, 5)  # of six blocks, the first or the last
PREFIX, TRAINED = "cite_", " alpha 1"  # before and behind the name of an ablation
WHOLE, DVA = f"{PREFIX}all", f"{PREFIX}dva"


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name."""
    parts = clip_cite_ablations.methods()
    for lam in LAMBDAS:
        parts[f"lambda{10 * lam:.0f}"] = clip_cite.entry() | {"contrastive_weight": lam}
    for eta in ETAS:
        parts[f"eta{10 * eta:.0f}"] = clip_cite.entry() | {"distill_weight": eta}
    parts["all"] |= {"wise": ALPHAS}
    left = {f"{end}_{k}" for end in ("first", "last") for k in (2, 4)}
    made = {PREFIX + n: few_shot.tuned(entry) for n, entry in parts.items() if n not in left}
    scl, vld = {"contrastive_weight": LAMBDA}, {"distill_weight": ETA}
    for name in ("coop", "maple"):
        for more, given in (("", {}), ("_scl", scl), ("_scl_vld", scl | vld)):
            made[name + more] = few_shot.methods()[name] | given
    return made


def groups() -> dict[str, dict[str, float | None]]:
    """Return what is compared -> its rows, and where each lies on the axis of a figure."""
    pick = lambda *names: dict.fromkeys(PREFIX + name for name in names)
    frozen = lambda end: {DVA: 0.0} | {f"{PREFIX}{end}_{k}": float(k) for k in FROZEN}
    lams = {f"{PREFIX}dva_vld": 0.0, WHOLE: LAMBDA}
    lams |= {f"{PREFIX}lambda{10 * lam:.0f}": lam for lam in LAMBDAS}
    etas = {f"{PREFIX}dva_scl": 0.0, WHOLE: ETA}
    etas |= {f"{PREFIX}eta{10 * eta:.0f}": eta for eta in ETAS}
    along = lambda rows: dict(sorted(rows.items(), key=lambda row: row[1]))
    terms = [name for name in methods() if not name.startswith(PREFIX)]
    return {
        "losses": pick("dva", "scl", "dva_scl", "dva_vld", "all"),
        "parts": pick("frozen_tc", "frozen_te", "all"),
        "alpha": {f"alpha {alpha:g}": alpha for alpha in (*ALPHAS, 1.0)},
        "terms": dict.fromkeys((*terms, WHOLE)),
        "lambda": along(lams),
        "eta": along(etas),
        "late": frozen("last"),
        "early": frozen("first"),
    }


def variants() -> dict[str, tuple[str, str]]:
    """Return a row -> the method and the variant that it shows."""
    found = {f"alpha {alpha:g}": (WHOLE, f"wise_{alpha:g}") for alpha in ALPHAS}
    found["alpha 1"] = WHOLE, "last"
    for name in methods():
        if name.startswith(PREFIX):
            found |= {name: (name, "wise_0.5"), name + TRAINED: (name, "last")}
    return found


def get_config(arg: str | None = None):
    """`few_shot_ablations[:source=...,target=...,smoke]`."""
    config = few_shot.get_config()
    config.experiment = "few_shot_ablations"
    config.methods, config.stages = methods(), tuple(methods())
    config.data.classes = "base"
    if common.apply_arg(config, arg):
        few_shot.shorten(config)
        config.stages = DVA, WHOLE
    return config
