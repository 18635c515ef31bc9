"""Label-free scores of candidates, beside those of `select`: pure functions of their answers.

N examples, K classes, M candidates. A logit of -inf is a class that a candidate excludes.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.evaluate.metrics import accuracy

MIXED, ROUNDS = 0.55, 8  # share of an example in a mixture; partners of each
SURE = 5.0  # nats: what MaNo's criterion is compared with


def _softmax(logits: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)


def ensemble_agreement(probabilities: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Return how often each candidate answers as all together do, [M, N, K] -> float32 [M].

    EnsV (Hu et al. 2024, NeurIPS datasets and benchmarks, "Towards reliable model selection for
    unsupervised domain adaptation"): the share of examples on which a candidate's class is that of
    the mean probabilities.
    `weights`, [M], are the candidates' votes in the mean, by default equal; a candidate of weight 0
    is scored and has no vote.

    >>> three = jax.nn.one_hot(jnp.array([[0, 1], [0, 1], [1, 1]]), 2)
    >>> ensemble_agreement(three).tolist()
    [1.0, 1.0, 0.5]
    """
    votes = jnp.ones(len(probabilities)) if weights is None else jnp.asarray(weights)
    together = jnp.argmax(jnp.tensordot(votes, probabilities, axes=1), axis=-1)
    same = jnp.argmax(probabilities, axis=-1) == together
    return jnp.mean(same, axis=-1, dtype=jnp.float32)


def agreement(logits: jax.Array, others: jax.Array) -> jax.Array:
    """Return the share of examples on which two candidates answer alike, [N, K] twice -> [].

    >>> float(agreement(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])))
    0.5
    """
    same = jnp.argmax(logits, axis=-1) == jnp.argmax(others, axis=-1)
    return jnp.mean(same, dtype=jnp.float32)


def mixed_consistency(
    predict: Callable[[jax.Array], jax.Array],
    inputs: jax.Array,
    order: Sequence[int],
    *,
    share: float = MIXED,
    rounds: int = ROUNDS,
) -> jax.Array:
    """Return how often mixtures are answered as their larger part, of both kinds, float32 [2].

    MixVal (Hu et al. 2023, NeurIPS, "Mixed samples as probes for unsupervised model selection in
    domain adaptation"), on inputs [N, P] that may be mixed, embeddings: x and x' become share x +
    (1 - share) x'. First of pairs with one predicted class (intra-cluster), then of pairs with two
    (inter-cluster); 0 of a kind that no pair is of, so that one class for everything scores 1 and
    0. `predict` maps inputs [*, P] to logits [*, K]; each example meets the `rounds` that follow
    it in `order`, a random permutation of N. A single example has no partner and gives NaN.

    >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> mixed_consistency(lambda x: x, x, [1, 0, 2]).tolist()
    [1.0, 1.0]
    """
    n = len(inputs)
    if n < 2:
        return jnp.full(2, jnp.nan)
    rounds, order = min(rounds, n - 1), np.asarray(order)
    one = np.tile(order, rounds)
    two = np.concatenate([np.roll(order, -shift) for shift in range(1, rounds + 1)])
    answers = jnp.argmax(predict(inputs), axis=-1)
    mixed = predict(share * inputs[one] + (1.0 - share) * inputs[two])
    kept, same = jnp.argmax(mixed, axis=-1) == answers[one], answers[one] == answers[two]
    kinds = jnp.stack([same, ~same])
    return jnp.sum(kept & kinds, axis=1) / jnp.maximum(jnp.sum(kinds, axis=1), 1)


def mano(logits: jax.Array, power: int = 4) -> jax.Array:
    """Return MaNo, the matrix norm of normalised logits, [N, K] -> float32 [].

    (mean over N K of q^4)^(1/4), where q is the softmax if the mean of -log p over examples and
    classes is above 5 nats, else 1 + z + z^2 / 2 divided by its sum over classes (Xie et al. 2024,
    arXiv 2405.18979, section 4). Logits of other scales have other scores: compare alike ones.

    >>> round(float(mano(jnp.zeros((3, 4)))), 4)
    0.25
    """
    logits = logits.astype(jnp.float32)
    there = jnp.isfinite(logits)
    logp = jax.nn.log_softmax(logits, axis=-1)
    sure = jnp.sum(jnp.where(there, -logp, 0.0)) / jnp.maximum(jnp.sum(there), 1) > SURE
    z = jnp.where(there, logits, 0.0)
    series = jnp.where(there, 1.0 + z + z**2 / 2, 0.0)  # at least 1/2 where there is a class
    q = jnp.where(sure, jnp.exp(logp), series / jnp.sum(series, axis=-1, keepdims=True))
    return jnp.mean(q**power) ** (1.0 / power)


def nuclear_norm(logits: jax.Array) -> jax.Array:
    """Return the sum of singular values of the probabilities over N, [N, K] -> float32 [].

    High for sure and varied predictions (BNM: Cui et al. 2020, arXiv 2003.12237, section 3.3; as a
    validator Musgrave et al. 2022, arXiv 2208.07360).

    >>> sure = 100 * jnp.eye(4)
    >>> [round(float(nuclear_norm(z)), 4) for z in (sure, jnp.tile(sure[:1], (4, 1)))]
    [1.0, 0.5]
    """
    return jnp.sum(jnp.linalg.svd(_softmax(logits), compute_uv=False)) / len(logits)


def predicted_prior(logits: jax.Array) -> jax.Array:
    """Return the mean prediction, [N, K] -> float32 [K].

    >>> predicted_prior(jnp.zeros((3, 2))).tolist()
    [0.5, 0.5]
    """
    return jnp.mean(_softmax(logits), axis=0)


def effective_classes(logits: jax.Array) -> jax.Array:
    """Return the number of classes that predictions spread over, [N, K] -> float32 [] in 1 to K.

    exp of the entropy of the mean prediction: K where all classes are as frequent, 1 where one
    takes everything (Hill's number of order 1).

    >>> round(float(effective_classes(100 * jnp.eye(4)[jnp.array([0, 1, 0, 1])])), 4)
    2.0
    """
    prior = predicted_prior(logits)
    return jnp.exp(-jnp.sum(prior * jnp.log(jnp.maximum(prior, 1e-12))))


def prior_distance(logits: jax.Array, others: jax.Array) -> jax.Array:
    """Return the total variation of two candidates' mean predictions, [N, K] twice -> [], 0 to 1.

    The share of predictions that would have to change their class.

    >>> float(prior_distance(100 * jnp.eye(2), 100 * jnp.eye(2)[jnp.array([0, 0])]))
    0.5
    """
    return jnp.sum(jnp.abs(predicted_prior(logits) - predicted_prior(others))) / 2


def thresholded_confidence(source: jax.Array, labels: jax.Array, target: jax.Array) -> jax.Array:
    """Return ATC's estimate of the accuracy on the target, [N, K], int [N], [M, K] -> float32 [].

    The share of target examples whose negative entropy reaches the threshold that as many source
    examples reach as are answered rightly (Garg et al. 2022, arXiv 2201.04234, equations 1 and 2,
    with its score ATC-NE). `source` are logits of labelled examples that nothing was fitted to.

    >>> source, labels = jnp.array([[9.0, 0.0], [1.0, 0.0]]), jnp.array([0, 1])
    >>> float(thresholded_confidence(source, labels, jnp.array([[5.0, 0.0], [0.0, 9.5]])))
    0.5
    """
    hits = jnp.sum(jnp.argmax(source, axis=-1) == labels)
    ordered = jnp.append(jnp.sort(_certainty(source)), jnp.inf)  # no hit: nothing reaches it
    reached = _certainty(target) >= ordered[len(source) - hits]
    return jnp.mean(reached, dtype=jnp.float32)


def _certainty(logits: jax.Array) -> jax.Array:
    """Return the negative entropy of each prediction, [N, K] -> [N]."""
    p = _softmax(logits)
    return jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=-1)


def confidence_difference(source: jax.Array, labels: jax.Array, target: jax.Array) -> jax.Array:
    """Return DoC's estimate of the accuracy on the target, shapes as of `thresholded_confidence`.

    Source accuracy minus what the mean confidence loses from source to target, cut to [0, 1]
    (Guillory et al. 2021, arXiv 2107.03315, section 3, without its regression).

    >>> sure, unsure = jnp.array([[100.0, 0.0]]), jnp.zeros((1, 2))
    >>> float(confidence_difference(sure, jnp.array([0]), unsure))
    0.5
    """
    before, after = (jnp.mean(jnp.max(_softmax(x), axis=-1)) for x in (source, target))
    return jnp.clip(accuracy(source, labels) - (before - after), 0.0, 1.0)
