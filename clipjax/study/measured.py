"""Measures of a part's answers, and the rows of results that they make."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.dataset import Part
from clipjax.data.features.cache import Features
from clipjax.data.unlabelled import labelled
from clipjax.evaluate.metrics import (
    accuracy,
    calibration_error,
    disagreement,
    macro_accuracy,
    macro_f1,
    top_class_share,
    worst_group,
)
from clipjax.evaluate.rows import CLASSES, VARIANT, row
from clipjax.study.encode import Encoded


@jax.jit
def _measures(logits, members, labels):
    return {
        "accuracy": accuracy(logits, labels),
        "macro_accuracy": macro_accuracy(logits, labels),
        "macro_f1": macro_f1(logits, labels),
        "ece": calibration_error(logits, labels),
        "members": accuracy(members, labels),
    }


@jax.jit
def _measures_without_labels(logits, members):
    return {"top_class_share": top_class_share(logits), "disagreement": disagreement(members)}


class Groups(NamedTuple):
    """The groups of a part's images, of which the worst is reported."""

    of: np.ndarray  # int32 [N], below 0 for none
    names: tuple[str, ...]


def groups_of(encoded: Encoded, domain: str, *splits: str) -> Groups | None:
    """Return the groups of the encoded images of these splits, one after the other, or None."""
    sources = [encoded.source(domain, split) for split in splits]
    found = [getattr(source, "groups", None) for source in sources]
    if any(groups is None for groups in found):
        return None
    return Groups(np.concatenate(found), tuple(getattr(sources[0], "group_names", ())))


def _worst(logits, labels: np.ndarray, groups: Groups) -> dict:
    if (found := worst_group(logits, labels, groups.of)) is None:
        return {}
    name = groups.names[found[1]] if found[1] < len(groups.names) else str(found[1])
    return {"worst_group_accuracy": found[0], "worst_groups": name}


def present(encoded: Encoded, domain: str) -> np.ndarray | None:
    """Return which classes a domain is scored among, bool [K]; None for all."""
    if encoded.study.data.score_among == "all":
        return None
    dataset = encoded.plan.dataset
    if dataset.unlabelled(domain):
        return None
    return np.isin(dataset.classes, dataset.classes_of(domain))


def score(
    logits,
    members,
    labels: np.ndarray,
    groups: Groups | None = None,
    among: np.ndarray | None = None,
) -> dict:
    """Measure all images, and with their labels those that have one; without any, nothing else.

    Classes that are not `among` those scored are no answers.
    """
    if among is not None and not among.all():
        logits, members = (jnp.where(among, x, -jnp.inf) for x in (logits, members))
    found, known = _measures_without_labels(logits, members), labelled(labels)
    if known.any():
        mine = (logits, members) if known.all() else (logits[known], members[:, known])
        found = _measures(*mine, jnp.asarray(labels[known])) | found
    if len(members) == 1:
        found = {k: v for k, v in found.items() if k not in ("members", "disagreement")}
    found = {key: np.asarray(v, np.float64).round(6).tolist() for key, v in found.items()}
    if groups is not None and known.any():
        mine = groups._replace(of=groups.of[known])
        found |= _worst(np.asarray(logits)[known], labels[known], mine)
    return found


def row_of(
    name: str, key: Part, scores: list[dict], part: Features, variant=VARIANT, classes=CLASSES
) -> dict:
    """Return a row of results: a method's `score` of each seed on a part's images."""
    columns = {measure: [score[measure] for score in scores] for measure in scores[0]}
    measured = int(labelled(part.labels).sum()) or len(part.labels)
    return row(name, *key, measured, columns, variant=variant, classes=classes)
