"""CLIP-CITE's ablations: which loss, which part, which layers (arXiv 2407.04003, table 4, figures).

clipjax run recipes/clip_cite_ablations                                  all of them
clipjax run recipes/clip_cite_ablations stages="('dva','scl','dva_scl','dva_vld','all')"   table 4
clipjax run recipes/clip_cite_ablations stages="('frozen_tc','frozen_te','all')"           figure 4
clipjax run recipes/clip_cite_ablations stages="('first_1','first_3','last_1','last_3')"   figure 9

Losses: `dva`, `scl`, `dva_scl`, `dva_vld` and `all`. Parts: in `frozen_tc` the table stays at the
texts, in `frozen_te` the text tower stays. Layers, with the first loss alone: `last_I` freezes the
last I blocks and the projection (figure 9a), `first_I` the embedding and the first I blocks (9b).
The text tower is frozen where no loss reaches it.
"""

from clipjax.configs.recipes import clip_cite

from clipjax.configs import common

BLOCKS = 6  # of the embedded model's image tower; 12 of ViT-B
SCALE, TEXT, TOWER = "clip/logit_scale", "clip/text/.*", "clip/vision"


def methods() -> dict[str, dict]:
    """Return an entry for each ablation, by name."""
    weigh = lambda contrastive, distill: {
        "contrastive_weight": contrastive,
        "distill_weight": distill,
    }
    freeze = lambda *patterns: {"freeze": (SCALE, *patterns)}
    dva = weigh(0.0, 0.0) | freeze(TEXT)
    changes = {
        "dva": dva,
        "scl": weigh(0.7, 0.0) | {"alignment_weight": 0.0},
        "dva_scl": weigh(0.7, 0.0),
        "dva_vld": weigh(0.0, 0.1),
        "all": {},
        "frozen_tc": freeze("table"),
        "frozen_te": freeze(TEXT),
    }
    for count in range(1, BLOCKS):
        first, last = f"block_0..{count - 1}", f"block_{BLOCKS - count}..{BLOCKS - 1}"
        early = f"{TOWER}/embedding", f"{TOWER}/{first}"
        late = f"{TOWER}/{last}", f"{TOWER}/projection"
        changes[f"first_{count}"] = dva | freeze(TEXT, *early)
        changes[f"last_{count}"] = dva | freeze(TEXT, *late)
    return {name: clip_cite.entry() | change for name, change in changes.items()}


def get_config(arg: str | None = None):
    """`recipes/clip_cite_ablations[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "clip_cite_ablations"
    config.data.shots, config.data.shots_missing = 16, "all"  # the embedded data have fewer
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.data.shots, config.stages = 1, ("dva", "all", "first_1")
        for name in methods():
            config.methods[name].epochs = 1
    return config
