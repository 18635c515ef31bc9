"""Random ResNets as timm makes and writes them: the reference of parity tests."""

import functools
import importlib.util
import sys

import pytest

from clipjax.model.hf import timm as ours

SMALL = {"layers": (2, 1, 1, 1), "channels": (8, 16, 24, 32), "stem_width": 8}
SMALL_CLIP = {"width_factor": 1 / 8, "img_size": 64, "num_classes": 24}  # one layer a stage


@functools.cache
def timm():
    """Import timm; skips the test without it.

    It imports torchvision, whose wheels on PyPI do not load beside a torch without CUDA: then the
    two operators that it names on import, which nothing here uses, are declared for it.
    """
    torch = pytest.importorskip("torch", reason='parity: pip install -e ".[parity]"')
    if importlib.util.find_spec("timm") is None:
        pytest.skip('parity: pip install -e ".[parity]"')
    try:
        return importlib.import_module("timm")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]
    timm.library = torch.library.Library(
        "torchvision", "FRAGMENT"
    )  # it lasts as long as it is held
    for name in ("nms", "qnms"):
        timm.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("timm")


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
