"""Names of domains in a config: a command line may write them in another Unicode form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from clipjax.io.texts import nfc


def spelled(config) -> ConfigDict:
    """A config that names domains in NFC, as datasets do; itself where it does already.

    It is made before anything is named after the config, so both forms are one run.
    """
    data, methods = config.get("data", {}), config.get("methods", {})
    fields = {key: data[key] for key in ("source", "target", "domains") if key in data}
    given = {"methods": dict(methods.items()), "sweep": config.get("sweep", ())}
    if (_in_nfc(fields), _in_nfc(given)) == (fields, given):
        return config
    made = config.copy_and_resolve_references()
    with made.unlocked():
        made.data.update(_in_nfc(fields))
        made.methods = ConfigDict(_in_nfc(given["methods"]), allow_dotted_keys=True)
        made.sweep = _in_nfc(given["sweep"])
    return made


def _in_nfc(value: Any) -> Any:
    """A value with all its texts in NFC."""
    if isinstance(value, str):
        return nfc(value)
    if isinstance(value, (tuple, list)):
        return type(value)(map(_in_nfc, value))
    if isinstance(value, ConfigDict):
        return ConfigDict({k: _in_nfc(v) for k, v in value.items()}, allow_dotted_keys=True)
    if isinstance(value, Mapping):
        return {key: _in_nfc(inner) for key, inner in value.items()}
    return value
