"""Few-shot episodes as a measure: tasks of classes that training never saw, with an interval."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from clipjax.data.loading.sampler import Episodes

PyTree = Any
USUAL = 600  # episodes, at least
AT_ONCE = 20  # episodes that are computed side by side
Cells = tuple[list[str], list[list[str]]]


def interval(accuracies: ArrayLike) -> tuple[float, float | None]:
    """Return the mean over episodes [N] and half the width of its 95 % confidence interval.

    1.96 standard errors, as few-shot papers have it; None of a single episode.

    >>> interval([0.5, 0.7, 0.6, 0.6])
    (0.6, 0.080017)
    """
    found = np.asarray(accuracies, np.float64)
    mean = round(float(found.mean()), 6)
    if len(found) == 1:
        return mean, None
    return mean, round(float(1.96 * found.std(ddof=1) / len(found) ** 0.5), 6)


@functools.partial(jax.jit, static_argnums=(0, 5))
def accuracies(
    answer: Callable, params: PyTree, features: jax.Array, labels: jax.Array, key, tasks: Episodes
) -> jax.Array:
    """Return the accuracy on the queries of each of `tasks.count` episodes, float32 [count].

    Args:
      answer: (params, support [way, shot, P], inputs [way * query, P], classes int [way]) -> logits
        [way * query, way].
      features: float32 [N, P].
      labels: int32 [N].
      key: which episodes; the same ones for every method.
      tasks: their sizes, and the classes that they leave out.
    """
    single = tasks._replace(count=1, tasks=1)

    def one(key):
        plan = single.plan(key, len(features), 0, 0, labels)
        support, query = plan["support"][0], plan["source"][0]
        ids = labels[support[:: tasks.shot]]
        shots = features[support].reshape(tasks.way, tasks.shot, -1)
        logits = answer(params, shots, features[query], ids)
        truth = jnp.repeat(jnp.arange(tasks.way), tasks.query)
        return jnp.mean((jnp.argmax(logits, axis=-1) == truth).astype(jnp.float32))

    keys = jax.random.split(key, tasks.count)
    return jax.lax.map(one, keys, batch_size=min(AT_ONCE, tasks.count))


def cells(results: Mapping[str, Any]) -> Cells:
    """Return the table of episodes: a line a method and kind of episode, a column a domain."""
    rows = results.get("episodes") or []
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    lines: dict[tuple, dict[str, str]] = {}
    for row in rows:
        name = (
            row["method"] if row["variant"] in ("", "last") else f"{row['method']} {row['variant']}"
        )
        kind = f"{row['way']}-way {row['shot']}-shot"
        line = lines.setdefault((name, kind), {})
        half = "" if row["ci95"] is None else f" ± {100 * row['ci95']:.1f}"
        line[row["domain"]] = f"{100 * row['accuracy']:.1f}{half}"
    body = [[*key, *(line.get(d, "–") for d in domains)] for key, line in lines.items()]
    return ["few-shot episodes", "task", *domains], body


def notes(results: Mapping[str, Any]) -> list[str]:
    """Return sentences on what the table of episodes shows, without a full stop."""
    rows = results.get("episodes") or []
    kinds = {(r["count"], r["query"], tuple(r["classes"]), r["seen"]) for r in rows}
    said = []
    for count, query, classes, seen in sorted(kinds):
        whose = "classes that training saw, too" if seen else "classes that training never saw"
        fewer = f" (papers take {USUAL} or more)" if count < USUAL else ""
        said.append(
            f"few-shot episodes: accuracy in % of {count} episodes{fewer} with {query} queries a "
            f"class from the test images of {len(classes)} {whose}, mean over seeds ± 95 % "
            "confidence over episodes (1.96 standard errors)"
        )
    return said
