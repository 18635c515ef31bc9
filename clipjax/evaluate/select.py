"""Criteria for picking a checkpoint or a setting, most without target labels; `select` picks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RULES = (
    "last", "source_val", "negative_entropy", "information_maximization",
    "soft_neighbourhood_density", "proxy_a_distance", "mano", "nuclear_norm", "mixval", "atc",
    "doc", "oracle",
)  # fmt: skip
LABEL_FREE = "information_maximization"  # the rule without target labels to take by default
ALIASES = {"label_free": LABEL_FREE}


def _entropy(logp: jax.Array) -> jax.Array:
    """Return the entropy of log-probabilities, [..., K] -> [...]; 0 log 0 is 0."""
    some = jnp.isfinite(logp)
    logp = jnp.where(some, logp, 0.0)
    return -jnp.sum(jnp.where(some, jnp.exp(logp) * logp, 0.0), axis=-1)


def negative_entropy(logits: jax.Array) -> jax.Array:
    """Return minus the mean prediction entropy, in nats, [N, K] -> [] (Morerio et al. 2018, arXiv
    1711.10288).

    >>> round(float(negative_entropy(jnp.zeros((3, 2)))), 4)
    -0.6931
    """
    return -jnp.mean(_entropy(jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)))


def information_maximization(logits: jax.Array) -> jax.Array:
    """Return the mutual information of input and prediction, in nats, [N, K] -> [].

    Entropy of the mean prediction minus mean entropy: confident and diverse predictions score high
    (the objective of Shi & Sha 2012, arXiv 1206.6438; as a validator, pytorch-adapt's IMValidator),
    one class for everything scores zero.

    >>> round(float(information_maximization(100 * jnp.eye(4))), 4)
    1.3863
    """
    mean = jnp.mean(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), axis=0)
    spread = -jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-12)))
    return spread + negative_entropy(logits)


def soft_neighbourhood_density(logits: jax.Array, temperature: float = 0.05) -> jax.Array:
    """Return the density of the neighbourhoods of the predictions, [N, K] -> [].

    Entropy of each example's softmax over its similarities to all others (Saito et al. 2021, arXiv
    2108.10860, equations 1-3); high where examples lie in large tight clusters.

    >>> clusters = 100 * jnp.repeat(jnp.eye(2), 3, axis=0)  # two groups of three
    >>> round(float(soft_neighbourhood_density(clusters)), 4)  # ln 2: two equal neighbours each
    0.6931
    """
    p = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    p = p / jnp.linalg.norm(p, axis=-1, keepdims=True)
    similarity = jnp.where(jnp.eye(len(p), dtype=bool), -jnp.inf, p @ p.T / temperature)
    return jnp.mean(_entropy(jax.nn.log_softmax(similarity, axis=-1)))


def proxy_a_distance(source: np.ndarray, target: np.ndarray, *, seed: int = 0) -> float:
    """Measure how well a linear classifier tells [N, F] and [M, F] apart: 0 not at all, 2 always.

    2 (1 - 2 error), cut to [0, 2], of a logistic regression trained on one half and tested on the
    other, of equally many examples a domain, at least 4 (Ben-David et al. 2006; Ganin et al. 2016,
    section 5.1.5). `seed` draws the halves.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # scikit-learn's own dependency

    rng = np.random.default_rng(seed)
    n = min(len(source), len(target)) // 2 * 2
    if n < 4:
        raise ValueError(f"{n} examples a domain are too few for a proxy A-distance; give 4.")
    one, two = (np.asarray(x)[rng.permutation(len(x))[:n]] for x in (source, target))
    halves = [np.concatenate([one[i::2], two[i::2]]) for i in (0, 1)]
    domain = np.repeat([0, 1], n // 2)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with threadpool_limits(1):  # so small that threads would wait for each other
        error = 1.0 - classifier.fit(halves[0], domain).score(halves[1], domain)
    return float(np.clip(2.0 * (1.0 - 2.0 * error), 0.0, 2.0))


def canonical(rule: str) -> str:
    """Return the rule that a name or an alias means; a ValueError lists them."""
    name = ALIASES.get(rule, rule)
    if name not in RULES:
        known = ", ".join([*RULES, *(f"{short} (= {long})" for short, long in ALIASES.items())])
        raise ValueError(f"unknown selection rule {rule!r}; known: {known}.")
    return name


def lower_is_better(rule: str) -> bool:
    """Return whether the smallest score of a rule is the best."""
    return canonical(rule) == "proxy_a_distance"


def uses_target_labels(rule: str) -> bool:
    """Return whether a rule reads target labels: only "oracle" does, an upper bound of others."""
    return canonical(rule) == "oracle"


def select(history: Sequence[Mapping[str, Any]], rule: str) -> Mapping[str, Any]:
    """Pick a checkpoint: the record of `history` that is best by `rule`.

    - "last": the last epoch; no tuning of the number of epochs, no leak of labels.
    - "source_val": accuracy on the source's validation split ("training-domain validation" of
      Gulrajani & Lopez-Paz 2021, arXiv 2007.01434, section 3).
    - "negative_entropy", "information_maximization" (alias "label_free", the default among the
      label-free rules), "soft_neighbourhood_density": this module's functions of the target's
      validation images; the highest wins.
    - "mano", "nuclear_norm", "mixval" (mean of both kinds of pairs): of `clipjax.evaluate.scores`,
      of the same images; the highest wins.
    - "atc", "doc": the highest estimate of target accuracy, from confidences on the source's
      validation split and the target's (`clipjax.evaluate.scores`).
    - "proxy_a_distance": the smallest distance of source and target features.
    - "oracle": accuracy on the target's validation split, with its labels ("test-domain validation"
      of the same paper).

    Among equal scores the later epoch wins; NaN, infinite and missing scores never do.

    `history` has one record an evaluated epoch, in any order: {"epoch": int, and the score of every
    rule but "last" by its name: float, or None where it was not measured}. ValueError: an unknown
    rule, an empty history, or no epoch with a score.

    >>> history = [{"epoch": 1, "source_val": 0.8, "oracle": 0.5},
    ...            {"epoch": 2, "source_val": 0.9, "oracle": 0.4}]
    >>> select(history, "source_val")["epoch"], select(history, "oracle")["epoch"]
    (2, 1)
    """
    found = ranked(history, rule)
    if not history:
        raise ValueError(f"the history is empty: no epoch to select; rules: {', '.join(RULES)}.")
    if not found:
        raise ValueError(f"no epoch has a score {canonical(rule)!r}; choose another rule.")
    return found[0]


def best_steps(
    scored: Sequence[Mapping[str, Any]], rule: str, count: int, ends: Sequence[int | None] = ()
) -> set[int]:
    """Return the steps of the `count` best checkpoints of each of several runs saved together.

    `scored` has a record a checkpoint: {"step": int, "evaluation": {rule: a list over runs}}; of a
    run that ended, at the step in `ends`, later ones do not count.

    >>> scored = [{"step": s, "evaluation": {"oracle": [s / 9, -s / 9]}} for s in (3, 6, 9)]
    >>> sorted(best_steps(scored, "oracle", 1))
    [3, 9]
    """
    runs = max((len(v) for s in scored for v in s["evaluation"].values()), default=0)
    histories = [
        [{"epoch": s["step"], **{k: v[i] for k, v in s["evaluation"].items()}} for s in scored]
        for i in range(runs)
    ]
    for run, end in enumerate(ends[:runs]):
        if end is not None:
            histories[run] = [record for record in histories[run] if record["epoch"] <= end]
    return {record["epoch"] for each in histories for record in ranked(each, rule)[:count]}


def ranked(history: Sequence[Mapping[str, Any]], rule: str) -> list[Mapping[str, Any]]:
    """Sort the records of a history as in `select`, best first; leave out those without a score.

    >>> history = [{"epoch": 1, "oracle": 0.5}, {"epoch": 2, "oracle": 0.7}, {"epoch": 3}]
    >>> [record["epoch"] for record in ranked(history, "oracle")]
    [2, 1]
    """
    name, sign = canonical(rule), -1.0 if lower_is_better(rule) else 1.0
    if name == "last":
        return sorted(history, key=lambda record: -record["epoch"])
    scored = [r for r in history if r.get(name) is not None and math.isfinite(r[name])]
    return sorted(scored, key=lambda r: (sign * r[name], r["epoch"]), reverse=True)
