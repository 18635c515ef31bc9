"""clipjax: CLIP on domains it was not trained for, in pure-functional JAX.

The public API is imported on first use, so that `import clipjax` starts no backend.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "clipjax.errors": "ClipjaxError",
    "clipjax.adapt.grl": "grl lambda_schedule",
    "clipjax.adapt.dann": "DannModel dann_loss dann_step",
    "clipjax.adapt.step": "TrainState init_state make_step",
    "clipjax.model.clip": "CLIP CLIPConfig",
    "clipjax.model.heads": "Heads class_embeddings",
    "clipjax.model.hf.load": "load_clip save_clip",
    "clipjax.model.hf.tokenizer": "load_tokenizer",
    "clipjax.model.text": "zero_shot_classifier",
    "clipjax.export.adapted": "load_adapted save_adapted",
    "clipjax.data.open": "open_dataset",
    "clipjax.api.pretrained": "Pretrained load",
    "clipjax.api.adapter": "Adapter",
}
_EXPORTS = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'clipjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
