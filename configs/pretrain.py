"""Pretrains the tiny CLIP on icon-name pairs: how clipjax/assets/tiny_clip was made.

    python tools/build_icon_corpus.py --out=corpus
    python -m experiments.main --config=configs/pretrain.py --config.data.root=corpus

Results, corpus counts, machine and time: clipjax/assets/tiny_clip/README.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """`--config=configs/pretrain.py[:smoke]`."""
    config = common.common()
    config.experiment = "pretrain"
    config.seeds = (0,)
    config.model = "scratch"
    config.init = ""  # a model of this architecture to go on from; empty: random weights
    config.tokenizer = "tiny"  # directory with vocab.json and merges.txt
    config.data.root = "corpus"
    # Shares of a batch; groups of the corpus's manifest.
    config.data.mixture = {"emoji-train": 0.55, "icon-colour": 0.33, "icon-mono": 0.12}
    config.data.caption_share = 0.35  # the drawing's own name
    config.data.category_share = 0.3  # its category; else any other of its texts
    config.data.templates = (
        "a picture of a {}",
        "a drawing of a {}",
        "an icon of a {}",
    )
    config.arch = ConfigDict(
        {
            "projection_dim": 128,
            "vision": {
                "hidden_size": 192,
                "intermediate_size": 768,
                "num_hidden_layers": 6,
                "num_attention_heads": 3,
                "image_size": 64,
                "patch_size": 8,
            },
            "text": {
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "max_position_embeddings": 16,
            },
        }
    )
    # Mostly white paper, as in the dataset; what else was tried is in the model card.
    config.augment = ConfigDict({"strength": 0.5, "white": 0.9})
    config.keep_patches = 0.4  # FLIP: each image shows this share of its patches in training
    config.batch_size = 64
    config.steps = 5000
    config.full_steps = 300  # the last steps see whole images, as at test time
    config.optim = ConfigDict(
        {
            "name": "adamw",
            "lr": 3e-4,
            "schedule": "cosine",
            "warmup": 0.03,
            "weight_decay": 0.1,
            "clip_norm": 1.0,
            "b2": 0.98,
        }
    )
    config.log_every = 100
    config.save_every = 500
    config.evaluate_every = 250  # zero-shot accuracy on the embedded validation split
    if common.apply_arg(config, arg):
        config.steps, config.full_steps, config.batch_size, config.log_every = 4, 2, 16, 1
        config.save_every, config.evaluate_every = 2, 4
    return config
