"""The train step of a config as training builds it, over shapes instead of arrays: no weights."""

from __future__ import annotations

import functools
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.step import TrainState
from clipjax.data.images.preprocess import Preprocess
from clipjax.errors import ConfigError
from clipjax.model.clip import CLIPConfig
from clipjax.model.hf.params import abstract_params
from clipjax.model.prompts import fill_prompts
from clipjax.study.config import Study
from clipjax.study.encode import Encoded
from clipjax.study.methods import build_methods
from clipjax.study.plan import Plan, check_masks, make_module, matched_data
from clipjax.study.run_group import RunGroup

PyTree = Any


class AbstractStep(NamedTuple):
    """A phase's step and the shapes of its arguments."""

    name: str  # of the phase
    step: Any  # (state, batch, *shared) -> (state, metrics)
    state: TrainState  # of one seed
    batch: PyTree
    cached: bool  # the image tower is not in it: inputs are its embeddings
    shared: tuple[PyTree, ...] = ()  # further arguments: parameters that no step changes


def abstract_plan(study: Study, clip_config: CLIPConfig) -> Plan:
    """A plan whose parameters are shapes; the data are the study's, opened but not read.

    Raises:
      ConfigError, DataError: as `clipjax.study.plan.prepare`.
    """
    dataset, _ = matched_data(study)
    methods = build_methods(study, tuple(dataset.classes))
    plan = Plan(
        study,
        dataset,
        dataset.classes,
        pathlib.Path(),
        make_module(study.encoder, clip_config),
        abstract_params(clip_config),
        Preprocess(size=clip_config.vision.image_size),
        methods,
    )
    for method in methods.values():
        check_masks(plan, method)
    return plan


def abstract_step(
    study: Study, clip_config: CLIPConfig, *, method: str = "", phase: str = ""
) -> AbstractStep:
    """The step of a phase, as training would make it.

    Args:
      study: its batch size is the global batch, per domain.
      clip_config: sizes of the encoder.
      method: of those it trains; the last by default.
      phase: of the method; the last by default.

    Raises:
      ConfigError: no such method or phase, or a study that cannot run.
    """
    plan = abstract_plan(study, clip_config)
    method = _pick(method, list(plan.methods), "method")
    labels = [phase.label or method for phase in plan.methods[method].phases]
    index = labels.index(_pick(phase, labels, "phase"))
    with tempfile.TemporaryDirectory() as workdir:
        group = RunGroup((method,), _no_texts(plan), workdir)
    state, cached = _state(group, index), group.cached[index]
    chosen = group.method.phases[index]
    backbone = group.backbone(chosen.augment, cached=cached)
    step, shared = group.step(index, backbone, state.params), group.shared(index)
    batch = _batch(group, index)
    return AbstractStep(chosen.name, step, state, batch, cached, (shared,) if shared else ())


def _pick(name: str, known: list[str], what: str) -> str:
    if not known:
        raise ConfigError(f"this config trains nothing; give one whose stages name a {what}.")
    if name and name not in known:
        raise ConfigError(f"there is no {what} {name!r}; known: {', '.join(known)}.")
    return name or known[-1]


def _no_texts(plan: Plan) -> Encoded:
    """Zeros in place of `encode_texts`: text weights and tokens of full length."""
    classes, sizes = plan.class_names, plan.clip_config
    prompts = len(fill_prompts(classes[0], plan.study.encoder.prompts))
    weights = jnp.zeros((len(classes), sizes.projection_dim))
    tokens = np.zeros((len(classes), prompts, sizes.text.max_position_embeddings), np.int32)
    return Encoded({}, weights, 1.0, tokens, plan, {}, {})


def _state(group: RunGroup, index: int) -> TrainState:
    """Shapes of one seed's state in a phase, through all phases before it."""
    state = jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], group.start()))
    for at in range(index + 1):
        state = jax.eval_shape(functools.partial(group.begin, at), state, group.joining(at))
    return state


def _batch(group: RunGroup, index: int) -> PyTree:
    """Shapes of what `paired_batches` yields, or `fit_arrays` gathers."""
    plan, reads = group.plan, group.method.kind.reads
    shape, dtype = (plan.preprocess.size,) * 2 + (3,), jnp.uint8
    if group.cached[index]:
        shape, dtype = (plan.clip_config.projection_dim,), jnp.float32
    classes = len(group.classes.names)

    def part(size, labelled):
        found = {"inputs": jax.ShapeDtypeStruct((size, *shape), dtype)}
        if labelled:
            found["label"] = jax.ShapeDtypeStruct((size,), jnp.int32)
        if "zero_shot" in reads and labelled != "support":
            found["zero_shot"] = jax.ShapeDtypeStruct((size, classes), jnp.float32)
        return found

    episodes, size = group.method.config.episodes, group.training.batch_size
    batch = {"source": part(episodes.way * episodes.query if episodes else size, True)}
    batch["source"]["mask"] = jax.ShapeDtypeStruct(batch["source"]["label"].shape, jnp.bool_)
    if episodes:
        batch["support"] = part(episodes.way * episodes.shot, True)
    if "target" in reads:
        batch["target"] = part(size, False)
    return batch
