"""Learned prompts as the words whose embeddings they are nearest to."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.model.hf.tokenizer import read_words
from clipjax.study.encode import Encoded
from clipjax.study.restore import Trained

CLASSES = 30  # of class-specific prompts that are shown


def prompt_words(encoded: Encoded, done: Mapping[str, Trained]) -> dict[str, list[dict[str, Any]]]:
    """Return method -> a row for its prompt, of class-specific ones for each class, at most 30.

    A row is {"seed", "class" ("" if it is of all), "words", "distances"}, of the first seed; a
    distance is Euclidean (as in CoOp's own interpretation).
    """
    plan, found = encoded.plan, {}
    for name, trained in done.items():
        method = plan.methods[name]
        if not method.trains or method.kind.prompts is None:
            continue
        table = np.asarray(plan.params["text"]["token_embedding"], np.float32)
        one = jax.tree.map(lambda x: x[0], trained.params)
        vectors = np.asarray(method.kind.prompts(one), np.float32)
        each = vectors[None] if vectors.ndim == 2 else vectors[:CLASSES]
        ids, far = nearest(each.reshape(-1, each.shape[-1]), table)
        words = read_words(plan.model, ids)
        shape = each.shape[:2]
        called = plan.dataset.classes if vectors.ndim == 3 else ("",)
        rows = zip(called, np.reshape(words, shape), far.reshape(shape), strict=False)
        found[name] = [
            {
                "seed": encoded.study.training.seeds[0],
                "class": label,
                "words": said.tolist(),
                "distances": [round(float(x), 4) for x in distances],
            }
            for label, said, distances in rows
        ]
    return found


def nearest(vectors: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of a table [V, D] that each vector [N, D] is nearest to, and how far, [N].

    >>> nearest(np.array([[0.0, 3.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    (array([1]), array([2.]))
    """
    products = np.asarray(jnp.asarray(vectors) @ jnp.asarray(table).T)
    ids = np.argmin((table**2).sum(axis=1) - 2 * products, axis=1)
    return ids, np.linalg.norm(vectors - table[ids], axis=1)
