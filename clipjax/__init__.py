"""clipjax: CLIP on domains it was not trained for, in pure-functional JAX.

The names below are the public API. They are imported on first use, so that `import clipjax` costs
nothing and starts no backend.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "ClipjaxError": "clipjax.errors",
    "grl": "clipjax.adapt.grl",
    "lambda_schedule": "clipjax.adapt.grl",
    "DannModel": "clipjax.adapt.dann",
    "dann_loss": "clipjax.adapt.dann",
    "dann_step": "clipjax.adapt.dann",
    "TrainState": "clipjax.adapt.step",
    "init_state": "clipjax.adapt.step",
    "make_step": "clipjax.adapt.step",
    "CLIP": "clipjax.model.clip",
    "CLIPConfig": "clipjax.model.clip",
    "Heads": "clipjax.model.heads",
    "class_embeddings": "clipjax.model.heads",
    "load_clip": "clipjax.model.hf.load",
    "save_clip": "clipjax.model.hf.load",
    "load_tokenizer": "clipjax.model.hf.tokenizer",
    "zero_shot_classifier": "clipjax.model.text",
    "load_adapted": "clipjax.export.adapted",
    "save_adapted": "clipjax.export.adapted",
    "open_dataset": "clipjax.data.open",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'clipjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
