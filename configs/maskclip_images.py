"""MaskCLIP+ on images of your own that have no masks: a CLIP's answers train a decoder.

clipjax run maskclip_images data.root=/data data.source=photos
clipjax inspect maskclip_images data.root=/data data.source=photos

`/data/photos/images` holds images, `/data/classes.txt` names classes, a line each; masks beside
some of them, for tests, are measured. The frozen CLIP whose maps train is its own teacher;
docs/segmentation.md has other students. Never run with a real CLIP. `smoke` takes the tiny one.
"""

from ml_collections import ConfigDict

from clipjax.configs import common, domino
from clipjax.study import Segmentation, flat


def get_config(arg: str | None = None) -> ConfigDict:
    """`--config=configs/maskclip_images.py[:root=/data,source=photos,model=ID,smoke]`."""
    config = ConfigDict(flat(Segmentation()))
    config.model = "openai/clip-vit-base-patch16"
    config.seeds = (0,)
    config.batch_size, config.save_every = 16, 5
    methods = {
        "teacher": {"decoder": "zero_shot"},
        "student": {"decoder": "aspp", "classifier": "text", "labels": "teacher"},
    }
    config.methods = {name: domino.fields() | entry for name, entry in methods.items()}
    if common.apply_arg(config, arg):
        config.model, config.epochs, config.batch_size = "tiny", 1, 4
    return config
