"""Random ResNets as timm makes and writes them: the reference of parity tests."""

import functools
import importlib
import importlib.util
import sys
import types
from unittest import mock

import pytest

from clipjax.model.hf import timm as ours

SMALL = {"layers": (2, 1, 1, 1), "channels": (8, 16, 24, 32), "stem_width": 8}
SMALL_CLIP = {"width_factor": 1 / 8, "img_size": 64, "num_classes": 24}  # one layer a stage


class _Absent(types.ModuleType):
    """A module of which any name is a class that nothing makes."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock() if name == "InterpolationMode" else type(name, (), {})


_TORCHVISION = ("datasets", "models", "models.feature_extraction", "ops", "ops.misc", "transforms")


@functools.cache
def timm():
    """Import timm; skips the test without it.

    It imports torchvision for what its ResNets do not use. Wheels of that need a torch of their
    own build, and another would break transformers' image processors: where there is none, names
    stand for it while timm is imported.
    """
    pytest.importorskip("torch", reason='parity: pip install -e ".[parity]"')
    if importlib.util.find_spec("timm") is None:
        pytest.skip("parity needs timm: pip install --no-deps timm")
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("timm")
    inner = (*_TORCHVISION, "transforms.functional")
    names = ["torchvision", *(f"torchvision.{name}" for name in inner)]
    modules = {name: _Absent(name) for name in names}
    for name, module in modules.items():
        where, _, own = name.rpartition(".")
        module.__path__ = []
        if where:
            setattr(modules[where], own, module)
    sys.modules.update(modules)
    try:
        return importlib.import_module("timm")
    finally:
        for name in names:
            del sys.modules[name]


def saved_timm(directory, name, monkeypatch, small=True, **changes):
    """Write a random model; every parameter and statistic is away from its first value.

    A `small` CLIP's ResNet has one layer a stage, which no config.json says: it is told to the
    loader.
    """
    import torch

    make, args = timm().create_model, dict(changes)
    if small and "clip" in name:
        args = SMALL_CLIP | changes
        blocks = sys.modules["timm.models.byobnet"].model_cfgs[name].blocks
        short = [type(block)(**{**vars(block), "d": 1}) for block in blocks]
        monkeypatch.setitem(ours.DEPTHS["clip"], name.split("_")[0][6:], (1, 1, 1, 1))
        args.pop("img_size" if "gap" in name else "", None)
        torch.manual_seed(0)
        model = make(name, blocks=short, **args)
        model._model_args.pop("blocks", None)  # it cannot be written
    else:
        args = SMALL | changes if small else args
        torch.manual_seed(0)
        model = make(name, **args)
    model.eval()
    with torch.no_grad():
        for place, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                noise = torch.rand_like if place.endswith("var") else torch.randn_like
                value.add_(0.1 * noise(value))
    directory.mkdir(exist_ok=True)
    timm().models.save_for_hf(model, directory, model_args=args, safe_serialization=True)
    return model
