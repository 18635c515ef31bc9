"""Studies: `run(Study(...))` from Python; `clipjax run` from a command line.

    from clipjax.study import Data, Study, Training, run

    results = run(Study(data=Data(target="flat"), training=Training(seeds=(0,))))
    print(results.rows)

The names are imported on first use, so that importing this package costs nothing.
"""

import importlib
from typing import Any

_PARTS = "Data Devices Encoder Features Mesh"
_TRAINING = "Augment MethodConfig Optim PhaseConfig Training"
_EXPORTS = {"run": "study", "Results": "study", "flat": "fields", "Programs": "recipe"}
_EXPORTS |= dict.fromkeys(("Study", "Pretraining", "Segmentation", "parse"), "config")
_EXPORTS |= dict.fromkeys(_PARTS.split(), "parts")
_EXPORTS |= dict.fromkeys(_TRAINING.split(), "training")

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'clipjax.study' has no attribute {name!r}")
    return getattr(importlib.import_module(f"clipjax.study.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
