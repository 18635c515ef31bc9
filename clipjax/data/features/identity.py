"""Identity of a model: compared before anything trained on its features is used."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.data.dataset import digest
from clipjax.data.features.cache import fingerprint
from clipjax.data.images.preprocess import Preprocess
from clipjax.model.clip import CLIPConfig
from clipjax.model.hf.config import config_to_hf
from clipjax.model.hf.hub import TOKENIZER_FILES

SHOWN = 3  # differences that a sentence names


def sizes(config: CLIPConfig, preprocess: Preprocess | None = None) -> dict[str, Any]:
    """Flatten both to JSON values by names like "config.json: vision_config.hidden_act"."""
    found = _flat(config_to_hf(config), "config.json: ")
    if preprocess is not None:
        found |= _flat(dataclasses.asdict(preprocess), "preprocessor_config.json: ")
    return json.loads(json.dumps(found))  # as a record of it will be read back


def identity_of(
    directory: pathlib.Path, config: CLIPConfig, params: Any, preprocess: Preprocess
) -> dict[str, Any]:
    """Collect all that a model's features and class weights depend on, as JSON values."""
    weights = {"weights": fingerprint(params)}
    return weights | sizes(config, preprocess) | tokenizer_files(directory)


def tokenizer_files(directory: pathlib.Path) -> dict[str, str]:
    """Hash each of the tokenizer's files in a directory."""
    there = [file for file in TOKENIZER_FILES if (directory / file).exists()]
    return {file: digest([(directory / file).read_bytes()]) for file in there}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """List the differences of two records briefly; "" if there are none.

    Names missing from `before` are those of a newer clipjax, unless they are tokenizer files.

    >>> differences({"weights": "a", "config.json: x": 1}, {"weights": "b", "config.json: x": 1})
    'weights'
    """
    names = [*before, *(n for n in now if n not in before and n in TOKENIZER_FILES)]
    changed = [name for name in names if before.get(name) != now.get(name)]
    values = lambda name: f" {before.get(name)} -> {now.get(name)}" if ": " in name else ""
    more = [f"{len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
    return ", ".join([*(name + values(name) for name in changed[:SHOWN]), *more])


def _flat(data: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix.removesuffix("."): data}
    inner = [_flat(value, f"{prefix}{key}.") for key, value in data.items()]
    return dict(pair for found in inner for pair in found.items())
