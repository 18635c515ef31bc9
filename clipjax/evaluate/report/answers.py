"""What evidence.json keeps of answers on labelled test images: confusions, calibration."""

from typing import Any

import numpy as np

from clipjax.data.unlabelled import labelled

CLASSES = 30  # of a confusion matrix
BINS = 15  # of confidence, as of `clipjax.evaluate.metrics.calibration_error`


def confusion(logits: np.ndarray, labels: np.ndarray, limit: int = CLASSES) -> dict[str, Any]:
    """Count answers by class, of logits [seeds, N, K] and labels int [N], all seeds together.

    Examples without a label are left out.

    Returns {"classes": the `limit` classes with most mistakes, ascending, or all that have an image
    or an answer, "counts": a row for each of them (the label), a column for each of them and one
    for all other classes (the answer)}.

    >>> confusion(np.eye(3)[None, [0, 1, 1]], np.array([0, 0, 1]))
    {'classes': [0, 1], 'counts': [[1, 1, 0], [0, 1, 0]]}
    """
    logits, labels = _known(logits, labels)
    seeds, _, k = logits.shape
    answers, labels = np.argmax(logits, axis=-1).ravel(), np.tile(labels, seeds)
    whole = np.bincount(labels * k + answers, minlength=k * k).reshape(k, k)
    seen = whole.sum(axis=0) + whole.sum(axis=1) > 0
    wrong = whole.sum(axis=1) - whole.diagonal()
    order = np.lexsort((-whole.sum(axis=1), -wrong, ~seen))
    chosen = np.sort(order[: min(limit, seen.sum())])
    rows = whole[chosen]
    among = rows[:, chosen]
    counts = np.column_stack([among, rows.sum(axis=1) - among.sum(axis=1)])
    return {"classes": chosen.tolist(), "counts": counts.tolist()}


def reliability(logits: np.ndarray, labels: np.ndarray) -> list[list[float]]:
    """Return [mean confidence, accuracy, share of answers] of each range of confidence in use.

    Logits are [seeds, N, K], labels int [N], examples without one left out; the ranges are
    `BINS` equal ones.

    >>> reliability(np.log([[[0.75, 0.25], [0.25, 0.75]]]), np.array([0, 0]))
    [[0.75, 0.5, 1.0]]
    """
    logits, labels = _known(logits, labels)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    sure = (shifted.max(axis=-1) / shifted.sum(axis=-1)).ravel()
    hits = (np.argmax(logits, axis=-1) == labels).ravel()
    which = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    n = np.bincount(which, minlength=BINS)
    sums = [np.bincount(which, weights=values, minlength=BINS) for values in (sure, hits)]
    means = [total[n > 0] / n[n > 0] for total in sums]
    columns = [column.round(4).tolist() for column in (*means, n[n > 0] / len(sure))]
    return [list(row) for row in zip(*columns, strict=True)]


def _known(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what has labels."""
    known = labelled(np.asarray(labels))
    return np.asarray(logits, np.float64)[:, known], np.asarray(labels)[known]
