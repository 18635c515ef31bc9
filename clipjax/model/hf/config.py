"""Hugging Face's config.json <-> `CLIPConfig`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from clipjax.errors import CheckpointError
from clipjax.model.clip import CLIPConfig, TextConfig, VisionConfig

_VISION_ONLY, _TEXT_ONLY = "clip_vision_model", "clip_text_model"


def config_from_hf(data: dict) -> CLIPConfig:
    """Reads the dict of a `config.json`: a whole CLIP, or one of its towers.

    Sizes that a file leaves out are Hugging Face's defaults, ViT-B/32's.

    Raises:
      CheckpointError: another type of model, or sizes that do not fit each other.
    """
    kind = data.get("model_type", "clip")
    if kind not in ("clip", _VISION_ONLY, _TEXT_ONLY):
        raise CheckpointError(f"this is a {kind!r} model; clipjax reads models of type 'clip'.")
    sections = {
        VisionConfig: _section(data, kind, "vision_config", _VISION_ONLY),
        TextConfig: _section(data, kind, "text_config", _TEXT_ONLY),
    }

    def tower(of):
        if sections[of] is None:
            return None
        names = {f.name for f in dataclasses.fields(of)}
        given = {k: _plain(k, v) for k, v in sections[of].items() if k in names}
        return of(**(_DEFAULTS[of] | given))

    try:
        vision, text = tower(VisionConfig), tower(TextConfig)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json describes no CLIP that can be built: {error}") from None
    single = [s for s in sections.values() if s is not None] if kind != "clip" else []
    projection = next((s["projection_dim"] for s in single if "projection_dim" in s), None)
    scale = data.get("logit_scale_init_value", 2.6592)
    width = projection or data.get("projection_dim", 512)
    for name, value, kind in (
        ("projection_dim", width, int),
        ("logit_scale_init_value", scale, float),
    ):
        if not _is_number(value, kind):
            raise CheckpointError(
                f"config.json: {name} is {value!r}, which is no finite {kind.__name__}."
            )
    return CLIPConfig(vision, text, width, scale)


_UNUSED = ("bos_token_id", "pad_token_id")  # no embedding depends on them: they may be null


def _plain(name: str, value: Any) -> Any:
    """One number where newer files may hold a list: square image sizes, a single EOS id."""
    if isinstance(value, (list, tuple)):
        if len(set(value)) != 1:
            raise ValueError(f"{name} is {value}; clipjax reads one number there.")
        value = value[0]
    kind = float if name == "layer_norm_eps" else int
    if name == "hidden_act" or _is_number(value, kind) or (value is None and name in _UNUSED):
        return value
    raise ValueError(f"{name} is {value!r}; give {'a number' if kind is float else 'an integer'}.")


def _is_number(value: Any, kind: type) -> bool:
    """Whether a value of a JSON file is a finite number, or an integer."""
    kinds = (int, float) if kind is float else int
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _section(data: dict, kind: str, name: str, single: str) -> dict | None:
    """A tower's part of a config.json; None if the file is about the other tower only.

    Whole models nest it. Old files have it twice, and then transformers takes `vision_config_dict`,
    so that is what the weights were used with. Exports of one tower have it at the top, or keep
    the nesting of the model they were cut from.
    """
    if kind not in ("clip", single):
        return None
    nested = data.get(f"{name}_dict") or data.get(name)
    return nested or (data if kind == single else {})


# What Hugging Face assumes where a config.json is silent (ViT-B/32's sizes).
_DEFAULTS = {
    VisionConfig: dict(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    ),
    TextConfig: dict(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=8,
        pad_token_id=1,
    ),
}


def config_to_hf(config: CLIPConfig) -> dict:
    """The dict of a `config.json` that transformers reads."""

    def tower(values, kind):
        sizes = {**dataclasses.asdict(values), "projection_dim": config.projection_dim}
        return {**sizes, "model_type": kind}

    if config.text is None:
        names = {"architectures": ["CLIPVisionModelWithProjection"]}
        return names | tower(config.vision, _VISION_ONLY)
    if config.vision is None:
        return {"architectures": ["CLIPTextModelWithProjection"]} | tower(config.text, _TEXT_ONLY)
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "logit_scale_init_value": config.logit_scale_init_value,
        "vision_config": tower(config.vision, _VISION_ONLY),
        "text_config": tower(config.text, _TEXT_ONLY),
    }
