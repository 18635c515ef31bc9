"""MaskCLIP+: a decoder trained on a CLIP's own answers in place of masks, and what masks are worth.

clipjax run maskclip
clipjax run maskclip smoke

After Zhou et al. 2022 (arXiv 2112.01071), on scenes of drawings. The tiny CLIP segments them by the
names of the classes (`teacher`), and labels the training scenes so; on these labels and, beside, on
the true masks trains DeepLabv2's head with CLIP's texts as classifier. The student's maps are the
frozen tiny CLIP's own, where the paper trains a ResNet-101: no ResNet is embedded. Two rows
standardise by the batch, as the paper's code. docs/segmentation.md has what comes out.
"""

from ml_collections import ConfigDict

from clipjax.configs import common, domino
from clipjax.data.scenes import GROUPS
from clipjax.study import Segmentation, flat

# The texts of the classes: names of what they hold, as "thing" and "background" say little.
NAMES = GROUPS | {"background": ("an empty landscape",)}


def get_config(arg: str | None = None) -> ConfigDict:
    """`--config=configs/maskclip.py[:smoke]`."""
    config = ConfigDict(flat(Segmentation()))
    config.teacher.names = NAMES
    config.levels = (6,)  # the last block alone
    config.data.train, config.data.test = 240, 100
    config.epochs, config.save_every, config.batch_size = 10, 10, 16
    student = {"decoder": "aspp", "classifier": "text"}
    methods = {
        "teacher": {"decoder": "zero_shot"},
        "student": student | {"labels": "teacher"},
        "on_masks": student,
        "student_batch": student | {"labels": "teacher", "stats": "batch"},
        "on_masks_batch": student | {"stats": "batch"},
    }
    config.methods = {name: domino.fields() | entry for name, entry in methods.items()}
    if common.apply_arg(config, arg):
        config.data.train, config.data.test, config.epochs = 40, 20, 1
    return config
