"""What the settings of a sweep are called: names of methods, of checkpoints, in logs and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

Setting = dict[str, Any]  # field -> value


def setting_names(stage: str, settings: Sequence[Setting]) -> list[str]:
    """A name for each setting of a stage: the stage and what is particular to the setting.

    Fields go by their last word, numbers by six digits, unless another field or value of the
    stage's would look the same.

    >>> setting_names("dann", [{"methods.dann.lam_max": 0.3, "optim.lr": 0.001}])
    ['dann lam_max=0.3 lr=0.001']
    >>> setting_names("dann", [{"optim.gamma": 0.5}, {"methods.dann.gamma": 0.5}])
    ['dann optim.gamma=0.5', 'dann methods.dann.gamma=0.5']
    >>> setting_names("dann", [{"optim.lr": 0.12345671}, {"optim.lr": 0.12345674}])
    ['dann lr=0.12345671', 'dann lr=0.12345674']

    Args:
      stage: its name.
      settings: the settings, only fields that concern the stage.
    """
    names = _names({field: None for setting in settings for field in setting})
    texts = {field: _texts([own[field] for own in settings if field in own]) for field in names}
    return [
        " ".join([stage, *(f"{names[k]}={texts[k][repr(v)]}" for k, v in setting.items())])
        for setting in settings
    ]


def _names(fields: Sequence[str]) -> dict[str, str]:
    """field -> its last word, or all of it where another field ends alike."""
    ends = {field: field.rsplit(".", 1)[-1] for field in fields}
    counts = Counter(ends.values())
    return {field: end if counts[end] == 1 else field for field, end in ends.items()}


def _texts(values: Sequence[Any]) -> dict[str, str]:
    """repr of a value -> how it is written."""
    short, exact = {}, {}
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        short[repr(value)] = f"{value:g}" if isinstance(value, float) else str(value)
        exact[repr(value)] = repr(float(value)) if number else str(value)
    counts = Counter(text for text, _ in {(short[key], exact[key]) for key in short})
    found = {key: text if counts[text] == 1 else exact[key] for key, text in short.items()}
    # It becomes part of file names.
    return {key: text.replace("/", "_").replace(" ", "") for key, text in found.items()}
