"""Segmentation in weather that no training image shows, with and without Domino.

clipjax run domino
clipjax run domino smoke

Scenes of drawings in clear sight train a decoder on maps of a frozen CLIP; fog, night, rain and
snow are tested. docs/segmentation.md explains the rows and has what they give.
"""

import dataclasses

from ml_collections import ConfigDict

from clipjax.configs import common
from clipjax.study import Segmentation, flat
from clipjax.study.segmentation_config import SegmentationMethod


def fields() -> dict:
    """Return the fields of a method with their defaults, so that any can be set on its row."""
    every = [field for field in dataclasses.fields(SegmentationMethod) if field.name != "name"]
    return {field.name: field.default for field in every}


def get_config(arg: str | None = None) -> ConfigDict:
    """`--config=configs/domino.py[:smoke]`."""
    config = ConfigDict(flat(Segmentation()))
    domino = {"norm": "domino"}
    methods = {
        "linear": {},
        "linear_domino": domino,
        "linear_domino_constant": domino | {"control": "constant"},
        "mlp": {"decoder": "mlp"},
        "mlp_domino": {"decoder": "mlp"} | domino,
    }
    config.methods = {name: fields() | entry for name, entry in methods.items()}
    if common.apply_arg(config, arg):
        config.data.train, config.data.test, config.epochs = 40, 20, 1
    return config
