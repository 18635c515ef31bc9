"""`config.evaluations`: classes that a run is tested on beside its own, each set among itself."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.classes import HALVES, cut, uncut
from clipjax.data.dataset import Dataset
from clipjax.data.open import open_dataset
from clipjax.errors import ConfigError
from clipjax.io.texts import some
from clipjax.model.backbone import tower_params
from clipjax.study.config import Study
from clipjax.study.methods import Method
from clipjax.study.prepared import Plan, made_of, own_shapes, shape_classes


def other_data(
    study: Study, dataset: Dataset, domains: Sequence[str]
) -> tuple[dict[str, Dataset], list[str]]:
    """Return the dataset of each evaluation, and notes on domains that have none of its classes.

    `dataset` is the run's own. ConfigError for an evaluation that no test image is of.
    """
    found, notes = {}, []
    for name, asked in study.asked.items():
        whole = uncut(dataset)
        if asked.elsewhere:
            whole = open_dataset(asked.name or "auto", asked.root)
        other = cut(whole, asked.classes) if asked.classes in HALVES else whole
        there = tested_domains(other, domains)
        bare = [d for d in there if not len(other.source(d, "test"))]
        if len(bare) == len(there):
            told = f"evaluations.{name}: no test image of {some(there)} is of its classes"
            raise ConfigError(f"{told}; leave it out.")
        if bare:
            notes.append(f"evaluations.{name} leaves out {some(bare)}, without images of it")
        found[name] = other
    return found, notes


def tested_domains(other: Dataset, domains: Sequence[str]) -> list[str]:
    """Return the domains of an evaluation: the run's own `domains`, or all where it has none."""
    return [domain for domain in domains if domain in other.domains] or list(other.domains)


def check_others(plan: Plan) -> None:
    """Raise ConfigError if a method cannot answer an evaluation: its head holds the run's classes.

    Classes that are a part of the run's own are answered by any: the others are left out.
    """
    for name, other in plan.others.items():
        if of_own(plan, other) is not None:
            continue
        for method in plan.methods.values():
            if told := cannot_answer(plan, method, other):
                new = [c for c in other.dataset.classes if c not in plan.dataset.classes]
                where = f"methods.{method.config.stage} cannot answer evaluations.{name}"
                raise ConfigError(f"{where}, as of {new[0]!r}: {told}")


def cannot_answer(plan: Plan, method: Method, other: Plan) -> str:
    """Return why a method has no answer for the classes of an evaluation, "" if it has."""
    loss = f"loss {method.config.loss!r}"
    if not method.trains:
        told = f"the closed form {method.config.loss!r} is fitted to the run's own classes"
        return "" if method.kind.any_classes else f"{told}; leave one of both out."
    made = made_of(plan, method, method.phases[-1])
    width = plan.clip_config.projection_dim
    own = own_shapes(plan, method) | {"clip": tower_params(plan.params, method.kind.towers)}
    try:
        seen = jax.ShapeDtypeStruct((1, width), jnp.float32)
        jax.eval_shape(lambda params, x: made.predict(params, x, shape_classes(other)), own, seen)
    except ValueError as error:  # `check_classes` of what the head is made of
        return f"{loss}: {error}"
    return ""


def of_own(plan: Plan, other: Plan) -> np.ndarray | None:
    """Return which columns of the run's own logits an evaluation's classes are; None: not all."""
    number = {name: k for k, name in enumerate(plan.dataset.classes)}
    found = [number.get(name) for name in other.dataset.classes]
    return None if None in found else np.array(found, np.int32)
