"""Studies: `run(Study(...))` from Python; `experiments.main` from a command line.

    from clipjax.study import Data, Study, Training, run

    results = run(Study(data=Data(target="flat"), training=Training(seeds=(0,))))
    print(results.rows)

The names are imported on first use, so that importing this package costs nothing.
"""

import importlib
from typing import Any

_EXPORTS = {
    "run": "clipjax.study.study",
    "Results": "clipjax.study.study",
    "Study": "clipjax.study.config",
    "Pretraining": "clipjax.study.config",
    "parse": "clipjax.study.config",
    "flat": "clipjax.study.fields",
    "Augment": "clipjax.study.parts",
    "Data": "clipjax.study.parts",
    "Devices": "clipjax.study.parts",
    "Encoder": "clipjax.study.parts",
    "Features": "clipjax.study.parts",
    "Mesh": "clipjax.study.parts",
    "MethodConfig": "clipjax.study.parts",
    "Optim": "clipjax.study.parts",
    "PhaseConfig": "clipjax.study.parts",
    "Training": "clipjax.study.parts",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'clipjax.study' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
