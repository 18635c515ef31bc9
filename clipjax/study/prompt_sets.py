"""Class weights of prompts other than the run's own, for methods that read them."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.adapt.method import PROMPTS
from clipjax.errors import ConfigError
from clipjax.model.prompts import fill_prompts
from clipjax.study.parts import Features
from clipjax.study.text_cache import kept


def prompt_sets(reads: Sequence[str]) -> tuple[str, ...]:
    """Return the prompt sets that a method reads, of its `reads`."""
    return tuple(part[len(PROMPTS) + 1 :] for part in reads if part.startswith(f"{PROMPTS}/"))


def checked_reads(where: str, reads: Sequence[str]) -> set[str]:
    """Return those of `reads` that are prompts; ConfigError if one is neither set nor template."""
    for prompts in prompt_sets(reads):
        try:
            fill_prompts("class", prompts)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    return {f"{PROMPTS}/{prompts}" for prompts in prompt_sets(reads)}


def kept_tokens(
    features: Features,
    names: Sequence[str],
    prompts: str | Sequence[str],
    identity: Mapping[str, Any],
    read: Callable[[], np.ndarray],
) -> np.ndarray:
    """Return token ids of the prompts of classes, int32 [K, prompts, T], from the cache if there.

    `names` are the classes as prompts say them, `read` makes the ids.
    """
    key = {"texts": [fill_prompts(name, prompts) for name in names]} | identity
    return kept(features, key | {"transformers": importlib.metadata.version("transformers")}, read)
