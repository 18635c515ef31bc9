"""Whether a config's own fields are choices there are, before data or model are looked at."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from clipjax.data.features.cache import DTYPES
from clipjax.data.images.decode import DECODERS
from clipjax.errors import ConfigError
from clipjax.evaluate.select import ALIASES, RULES
from clipjax.model.transformer import REMAT
from clipjax.study.mesh import check_parallel
from clipjax.study.sweep import DATA_FIELDS
from clipjax.study.values import check_data, is_whole

COMPUTE = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_SEEDS = 2**32  # they are kept in 32 bits


def check_choices(config) -> None:
    """Refuses values of a study's fields that no run could have.

    Raises:
      ConfigError: the field.
    """
    _check_lists(config)
    _check_data(config)
    check_parallel(config)
    check_seeds(config)
    check_saving(config)
    if config.keep_best and config.selection == "last":
        raise ConfigError(
            f"keep_best={config.keep_best} keeps the best checkpoints by `selection`, and "
            "selection=last ranks none; choose a rule, or set keep_best=0."
        )
    if config.accumulate < 1 or config.batch_size % config.accumulate:
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be dealt out to accumulate="
            f"{config.accumulate} microbatches; choose a divisor."
        )


def _check_lists(config) -> None:
    """Refuses values of a closed list that are not in it."""
    choices = {
        "selection": (*RULES, *ALIASES),
        "compute_dtype": COMPUTE,
        "remat": REMAT,
        "features.dtype": DTYPES,
        "data.decoder": DECODERS,
    }
    for field, known in choices.items():
        given = functools.reduce(lambda at, key: at[key], field.split("."), config)
        if given not in known:
            raise ConfigError(f"{field} is {given!r}; known: {', '.join(known)}.")
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError('config.tensorboard needs tensorboardX: pip install -e ".[tensorboard]".')


def _check_data(config) -> None:
    """Refuses numbers that no reading of data could follow."""
    check_data("data.", {field: config.data[field] for field in DATA_FIELDS})
    if not 0 <= config.data.max_unreadable <= 1:
        raise ConfigError(
            f"data.max_unreadable={config.data.max_unreadable} is a share of the images, 0 to 1."
        )
    if config.data.workers < 0 or config.features.batch_size < 1:
        raise ConfigError(
            f"data.workers={config.data.workers}, features.batch_size="
            f"{config.features.batch_size}: give at least 0 and 1."
        )


def check_seeds(config) -> None:
    """Refuses seeds that are none, equal, or no 32-bit numbers.

    Raises:
      ConfigError: these seeds.
    """
    seeds = tuple(config.seeds)
    fit = all(is_whole(seed) and 0 <= seed < _SEEDS for seed in seeds)
    if not seeds or not fit or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"seeds={seeds}: give one or more different whole numbers from 0 to {_SEEDS - 1}."
        )


def check_saving(config) -> None:
    """Refuses checkpoints that would never come or never stay.

    Raises:
      ConfigError: the field.
    """
    if config.save_every < 1:
        raise ConfigError(
            f"save_every={config.save_every}: give 1 or more, the distance of two checkpoints."
        )
    if config.keep < 1 or config.get("keep_best", 0) < 0:
        raise ConfigError(
            f"keep={config.keep}, keep_best={config.get('keep_best', 0)}: give at least 1 and 0."
        )


_DEEPEST = 64  # blocks; no CLIP has as many


def trains_on_pixels(config) -> bool:
    """Whether a stage trains from pixels, as far as the config's words tell; in doubt, yes.

    `clipjax.study.plan.is_cached` knows, but when memory is set up nothing is loaded yet, and what
    is wrong with a config is said later.
    """
    if config.experiment == "pretrain":
        return True
    words = json.loads(config.to_json_best_effort())
    methods = [entry for name, entry in words["methods"].items() if name in words["stages"]]
    own = list(_fields([methods, words["sweep"]]))
    masks = [words["freeze"], *(value for field, value in own if field == "freeze")]
    looks = any(value for field, value in own if field in ("augment", "text"))
    return bool(words["stages"]) and (looks or not all(map(_freezes_image_tower, masks)))


def _fields(tree: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of all fields at any depth; of a sweep's dotted names the last part."""
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    if isinstance(tree, dict):
        yield from ((name.rpartition(".")[2], value) for name, value in tree.items())
    for value in inner:
        yield from _fields(value)


def _freezes_image_tower(freeze: Any) -> bool:
    """Whether a freezing mask covers an image tower of any depth."""
    from clipjax.study.values import is_pattern
    from clipjax.train.groups import is_frozen

    tower = ("embedding", "projection", *(f"block_{i}" for i in range(_DEEPEST)))
    valid = isinstance(freeze, list) and all(map(is_pattern, freeze))
    return valid and all(is_frozen(f"clip/vision/{part}", freeze) for part in tower)
