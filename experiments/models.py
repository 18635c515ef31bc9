"""Names of models in configs to directories."""

from __future__ import annotations

import pathlib

import clipjax

TINY = pathlib.Path(clipjax.__file__).parent / "assets" / "tiny_clip"


def model_directory(name: str) -> pathlib.Path:
    """ "tiny" is the embedded CLIP; everything else is a directory."""
    return TINY if name == "tiny" else pathlib.Path(name)
