"""Cityscapes to ACDC's fog, night, rain and snow, after Domino. Never run on the real sets.

clipjax run domino_driving data.root=/data model=openai/clip-vit-base-patch16

`/data` holds Cityscapes (leftImg8bit, gtFine) and ACDC (rgb_anon, gt), each in a folder of its own.
Trained on Cityscapes' training images alone and tested on val of both, ACDC's by condition: the
masks of both test splits are withheld. Steps, optimizer and crops are the paper's where it names
them, else those of VPD, whose values it has: docs/segmentation.md says which.
"""

from ml_collections import ConfigDict

from clipjax.configs import common, domino

CONDITIONS = ("fog", "night", "rain", "snow")


def get_config(arg: str | None = None) -> ConfigDict:
    """`--config=configs/domino_driving.py[:root=/data,model=ID,smoke]`."""
    config = domino.get_config()
    config.model = "openai/clip-vit-base-patch16"
    config.seeds = (0,)
    masks = {"mask": {"decoder": "mask"}, "mask_add": {"decoder": "mask", "prompt": "add"}}
    config.methods.update({name: domino.fields() | entry for name, entry in masks.items()})
    config.data.update(
        name="joined",
        source="cityscapes",
        targets=CONDITIONS,
        crop=(512, 512),
        scale=(0.5, 2.0),
        cat_max_ratio=0.75,
        mirror=True,
        window=(512, 512),
        stride=(341, 341),
    )
    config.descriptions = {
        "cityscapes": "a street on a clear day",
        "fog": "a street in fog",
        "night": "a street at night",
        "rain": "a street in rain",
        "snow": "a street in snow",
    }
    # 430 passes of 186 steps are 79,980 of the paper's 80,000; 1,500 of them warm up.
    config.epochs, config.batch_size, config.save_every = 430, 16, 10
    config.warmup = 1500 / (430 * 186)
    config.lr, config.weight_decay = 8e-5, 1e-3
    config.class_weights, config.width = "enet", 256
    if common.apply_arg(config, arg):
        config.model = "tiny"
        config.data.update(train=4, test=2, resize=(64, 128), crop=(32, 32))
        config.data.update(window=(32, 32), stride=(16, 24))
        config.epochs, config.batch_size, config.width = 1, 2, 8
    return config
