"""The train step of a config as training builds it, over shapes instead of arrays."""

import functools
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.method import Words
from clipjax.adapt.preserve import EMBEDDING
from clipjax.adapt.step import TrainState
from clipjax.data.images.preprocess import Preprocess
from clipjax.errors import ConfigError
from clipjax.model.clip import CLIPConfig
from clipjax.model.hf.params import abstract_params
from clipjax.model.prompts import fill_prompts
from clipjax.study.config import Study
from clipjax.study.encode import Encoded
from clipjax.study.methods import build_methods
from clipjax.study.model_opened import make_module
from clipjax.study.plan import Plan, check_masks, matched_data
from clipjax.study.run_group import RunGroup

PyTree = Any


class AbstractStep(NamedTuple):
    """A phase's step and the shapes of its arguments."""

    name: str  # of the phase
    step: Any  # (state, batch, *shared) -> (state, metrics)
    state: TrainState  # of one seed
    batch: PyTree
    cached: bool  # inputs are embeddings: the image tower is not in it
    shared: tuple[PyTree, ...] = ()  # parameters that no step changes


def abstract_step(
    study: Study, clip_config: CLIPConfig, *, method: str = "", phase: str = ""
) -> AbstractStep:
    """Make the step of a method's phase (the last by default) as training would.

    The study's batch size is the global batch, per domain. ConfigError: no such method or phase, or
    a study that cannot run.
    """
    dataset, _ = matched_data(study)  # opened, but not read
    methods, here = build_methods(study, tuple(dataset.classes)), pathlib.Path()
    module, params = make_module(study.encoder, clip_config), abstract_params(clip_config)
    preprocess = Preprocess(size=clip_config.vision.image_size)
    plan = Plan(study, dataset, dataset.classes, here, module, params, preprocess, methods)
    plan = plan._replace(**_unread_words(plan))
    for each in methods.values():
        check_masks(plan, each)
    method = pick(method, list(methods), "method")
    labels = [phase.label or method for phase in methods[method].phases]
    index = labels.index(pick(phase, labels, "phase"))
    prompts, sizes = len(fill_prompts(dataset.classes[0], study.encoder.prompts)), clip_config
    weights = jnp.zeros((len(dataset.classes), sizes.projection_dim))  # in place of `encode_texts`
    tokens = np.zeros((len(weights), prompts, sizes.text.max_position_embeddings), np.int32)
    with tempfile.TemporaryDirectory() as workdir:
        texts = Encoded({}, weights, 1.0, tokens, plan, {}, {})
        group = RunGroup((method,), texts, workdir)
    first = functools.partial(jax.tree.map, lambda x: x[0])
    state = jax.eval_shape(first, group.start_shapes())
    for at in range(index + 1):
        state = jax.eval_shape(functools.partial(group.recipe.begin, at), state, group.joining(at))
    chosen, cached = group.method.phases[index], group.cached[index]
    backbone = group.recipe.backbone(chosen.augment, cached=cached)
    step, shared = group.recipe.step(index, backbone, state.params), group.shared(index)
    batch = _batch(group, index)
    return AbstractStep(chosen.name, step, state, batch, cached, (shared,) if shared else ())


def _unread_words(plan: Plan) -> dict[str, Any]:
    """Return what stands for the tokens of learned prompts: one a word, names of three."""
    text, kinds = plan.clip_config.text, [method.kind for method in plan.methods.values()]
    asked = [getattr(kind, "words", None) for kind in kinds]
    if text is None or not (asked := [words for words in asked if words is not None]):
        return {}
    bare = np.full((len(plan.dataset.classes), text.max_position_embeddings), text.eos_token_id)
    bare[:, :5] = 0 if text.eos_token_id else 1  # begin, three tokens and the stop
    lengths = {each: len(each.split()) for words in asked for each in words}
    blank = lambda n: Words(np.zeros(n, np.int32), np.zeros((n, text.hidden_size), np.float32))
    return {"bare": bare.astype(np.int32), "words": {k: blank(n) for k, n in lengths.items()}}


def pick(name: str, known: list[str], what: str) -> str:
    """Return a name, or the last one where none is asked for; ConfigError lists the known."""
    if not known:
        raise ConfigError(f"this config trains nothing; give one whose stages name a {what}.")
    if name and name not in known:
        raise ConfigError(f"there is no {what} {name!r}; known: {', '.join(known)}.")
    return name or known[-1]


def _batch(group: RunGroup, index: int) -> PyTree:
    """Shapes of a batch of `paired_batches` or `fit_arrays`."""
    plan, reads = group.plan, group.method.kind.reads
    shape, dtype = (plan.preprocess.size,) * 2 + (3,), jnp.uint8
    if group.cached[index]:
        shape, dtype = (plan.clip_config.projection_dim,), jnp.float32
    classes = len(group.classes.names)

    def part(size, *more):
        zero_shot = {"zero_shot": ((classes,), jnp.float32)} if "zero_shot" in reads else {}
        known = {"inputs": (shape, dtype), "label": ((), jnp.int32), "mask": ((), jnp.bool_)}
        known = {key: known[key] for key in ("inputs", *more)} | zero_shot
        if EMBEDDING in reads:
            known[EMBEDDING] = ((plan.clip_config.projection_dim,), jnp.float32)
        return {key: jax.ShapeDtypeStruct((size, *x), kind) for key, (x, kind) in known.items()}

    episodes, size = group.method.config.episodes, group.training.batch_size
    sets = episodes.tasks * episodes.way if episodes else 0
    queries = sets * episodes.query if episodes else size
    batch = {"source": part(queries, "label", "mask")}
    if episodes:
        batch["support"] = part(sets * episodes.shot, "label")
    if "target" in reads:
        batch["target"] = part(size)
    return batch
