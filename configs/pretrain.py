"""Pretrains the tiny CLIP on icon-name pairs: how clipjax/assets/tiny_clip was made.

    python tools/build_icon_corpus.py --out=corpus
    clipjax run pretrain data.root=corpus

Results, corpus counts, machine and time: clipjax/assets/tiny_clip/README.md.
"""

from ml_collections import ConfigDict

from clipjax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """`--config=configs/pretrain.py[:smoke]`."""
    config = common.pretraining()  # the recipe itself: `Pretraining` of clipjax/study/config.py
    if common.apply_arg(config, arg):
        config.steps, config.full_steps, config.batch_size, config.log_every = 4, 2, 16, 1
        config.save_every, config.evaluate_every = 2, 4
    return config
