"""Hugging Face's config.json <-> `CLIPConfig`."""

import dataclasses
import math
from typing import Any

from clipjax.errors import CheckpointError
from clipjax.model.clip import CLIPConfig, TextConfig, VisionConfig
from clipjax.model.hf.weights import is_timm
from clipjax.model.image_model import TOWERS, ImageConfig

_SINGLE = {"vision": "clip_vision_model", "text": "clip_text_model"}  # model_type of one tower
# What Hugging Face assumes where a config.json is silent (ViT-B/32's sizes).
_DEFAULTS = {
    "vision": VisionConfig(768, 3072, 12, 12),
    "text": TextConfig(512, 2048, 12, 8, pad_token_id=1),
}
_UNUSED = ("bos_token_id", "pad_token_id")  # no embedding depends on them: they may be null


def config_from_hf(data: dict) -> CLIPConfig:
    """Read the dict of a `config.json`: a whole CLIP, or one of its towers.

    Missing sizes are Hugging Face's defaults. CheckpointError for another type of model, or sizes
    that do not fit each other.
    """
    kind = "resnet" if is_timm(data) else data.get("model_type", "clip")
    if kind not in ("clip", *_SINGLE.values()):
        study = " It has no class texts: a study takes it as its model, for what needs none."
        more = study * (kind in TOWERS)
        told = f"this is a {kind!r} model; clipjax reads models of type 'clip'.{more}"
        raise CheckpointError(told)
    sections = {tower: _section(data, kind, tower) for tower in _SINGLE}
    try:
        towers = {t: None if s is None else _tower(t, s) for t, s in sections.items()}
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json describes no CLIP that can be built: {error}") from None
    single = next(s for s in sections.values() if s is not None) if kind != "clip" else {}
    width = single.get("projection_dim") or data.get("projection_dim", 512)
    scale = data.get("logit_scale_init_value", 2.6592)
    numbers = {"projection_dim": (width, int), "logit_scale_init_value": (scale, float)}
    for name, (value, type_) in numbers.items():
        if not _is_number(value, type_):
            raise CheckpointError(f"config.json: {name} is {value!r}, no finite {type_.__name__}.")
    return CLIPConfig(towers["vision"], towers["text"], width, scale)


def _section(data: dict, kind: str, tower: str) -> dict | None:
    """Return a tower's part of a config.json; None if the file describes only the other tower.

    Exports of one tower may nest it too. Old files have it twice; transformers uses `..._dict`.
    """
    if kind not in ("clip", _SINGLE[tower]):
        return None
    nested = data.get(f"{tower}_config_dict") or data.get(f"{tower}_config")
    return nested or (data if kind == _SINGLE[tower] else {})


def _tower(tower: str, section: dict) -> VisionConfig | TextConfig:
    names = {field.name for field in dataclasses.fields(_DEFAULTS[tower])}
    given = {name: _plain(name, value) for name, value in section.items() if name in names}
    return dataclasses.replace(_DEFAULTS[tower], **given)


def _plain(name: str, value: Any) -> Any:
    """Return one number where newer files may hold a list: square image sizes, a single EOS id."""
    if isinstance(value, (list, tuple)):
        if len(set(value)) != 1:
            raise ValueError(f"{name} is {value}; clipjax reads one number there.")
        value = value[0]
    kind = float if name == "layer_norm_eps" else int
    if name == "hidden_act" or _is_number(value, kind) or (value is None and name in _UNUSED):
        return value
    raise ValueError(f"{name} is {value!r}; give {'a number' if kind is float else 'an integer'}.")


def _is_number(value: Any, kind: type) -> bool:
    """Tell whether a value of a JSON file is a finite number, or an integer."""
    kinds = (int, float) if kind is float else int
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def config_to_hf(config: CLIPConfig | ImageConfig) -> dict:
    """Return the dict of a `config.json` that transformers reads."""
    if isinstance(config, ImageConfig):
        return {"model_type": config.kind, **dataclasses.asdict(config.vision)}
    width = {"projection_dim": config.projection_dim}
    towers = {
        tower: {**dataclasses.asdict(sizes), **width, "model_type": _SINGLE[tower]}
        for tower in _SINGLE
        if (sizes := getattr(config, tower)) is not None
    }
    if len(towers) == 1:
        ((tower, sizes),) = towers.items()
        return {"architectures": [f"CLIP{tower.title()}ModelWithProjection"], **sizes}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        **width,
        "logit_scale_init_value": config.logit_scale_init_value,
        **{f"{tower}_config": sizes for tower, sizes in towers.items()},
    }
