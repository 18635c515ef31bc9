"""The prompts of classes: what they call them, as token ids, and sets beside the run's own."""

import importlib.metadata
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.adapt.method import PROMPTS
from clipjax.data.classes import uncut
from clipjax.data.dataset import Dataset
from clipjax.errors import ConfigError
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.model.prompts import fill_prompts, read_class_names
from clipjax.model.text import class_tokens
from clipjax.study.parts import Encoder, Features
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


def prompt_names(file: str, classes: tuple[str, ...], texts: Mapping[str, str]) -> tuple[str, ...]:
    """Return what prompts call the classes: as `file` (`config.class_names`) says, or the data."""
    own = read_class_names(file, classes) if file else {}
    return tuple(own.get(name) or texts.get(name, name) for name in classes)


def all_names(file: str, dataset: Dataset) -> dict[str, str]:
    """Return what prompts call each class, also those that `data.classes` cuts away."""
    whole = uncut(dataset)
    return dict(zip(whole.classes, prompt_names(file, whole.classes, whole.texts), strict=True))


def read_prompts(encoder: Encoder, names: Sequence[str], model: str | pathlib.Path) -> np.ndarray:
    """Return token ids of the classes' prompts, int32 [K, prompts, T].

    `names` are the classes as prompts say them; `model` is a directory or a Hub id.
    """
    revision = None if isinstance(model, pathlib.Path) else encoder.revision or None
    return class_tokens(load_tokenizer(model, revision=revision), names, encoder.prompts)
