"""Weighted losses on arrays: padding never counts, whatever it holds.

A mean over examples is `mean(values * weight)`. `weigh` makes the weights from a batch's masks,
once a step: 0 on padding, and elsewhere such that the mean over all devices' and microbatches'
means is the mean over the real examples of the whole batch, however unevenly they are dealt out.
Where the weight is 0, NaN, infinities and wrong labels reach neither values nor gradients.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import check_labels, check_weight, domain_logits, known_labels

PyTree = Any
Axis = str | tuple[str, ...] | None  # the name of a mapped axis, or of several mesh axes


def weigh(batch: PyTree, axis_name: Axis = None) -> PyTree:
    """A batch with "weight" float32 [N] beside every "mask" bool [N]; masked rows hold ones.

    (A NaN in a masked row would reach the parameters' gradient as 0 times NaN; at zeros the norm of
    a vector has no derivative.) A part with "domain", one-hot rows [N, domains], also gets
    "domain_weight" [N, domains], the weights of a mean over each domain.

    Args:
      batch: {part: {"inputs", "label", "mask", ...}}; parts without a mask, parts that have weights
        already, and batches that are no dict stay as they are.
      axis_name: of the axis that `jax.pmap` or `jax.shard_map` maps, if the batch is cut along it.

    Raises:
      ValueError: a mask of another length than its part.

    >>> import jax.numpy as jnp
    >>> part = {"inputs": jnp.array([1.0, 2.0, jnp.nan]), "mask": jnp.array([True, True, False])}
    >>> found = weigh({"source": part})["source"]
    >>> found["inputs"].tolist(), found["weight"].tolist()
    ([1.0, 2.0, 1.0], [1.5, 1.5, 0.0])
    """
    if not isinstance(batch, dict):
        return batch
    return {name: _weigh_part(part, axis_name) for name, part in batch.items()}


def _weigh_part(part: PyTree, axis_name: Axis) -> PyTree:
    if not isinstance(part, dict) or "weight" in part or not {"mask", "domain"} & part.keys():
        return part
    rows = dict(part)
    mask = rows.pop("mask") if "mask" in part else jnp.ones(len(part["domain"]), bool)
    for leaf in jax.tree.leaves(rows):
        if jnp.ndim(leaf):
            check_weight(mask, len(leaf), "mask")
    size = len(mask) * (1 if axis_name is None else jax.lax.axis_size(axis_name))

    def weights(real):  # of means over the rows that are 1 in [N, ...]
        count = jnp.sum(real, axis=0)
        count = count if axis_name is None else jax.lax.psum(count, axis_name)
        return real * (size / jnp.where(count > 0, count, 1.0))

    found = real_rows(rows, mask) | {"mask": mask, "weight": weights(mask.astype(jnp.float32))}
    if "domain" in part:
        own = jnp.where(mask[:, None] != 0, part["domain"].astype(jnp.float32), 0)
        found["domain_weight"] = weights(own)
    return found


def real_rows(rows: PyTree, mask: jax.Array) -> PyTree:
    """Arrays [N, ...] with ones where mask [N] is False; numbers as they are."""

    def keep(x):
        if not jnp.ndim(x):
            return x
        x = jnp.asarray(x)
        real = mask.astype(bool).reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(real, x, jnp.ones((), x.dtype))

    return jax.tree.map(keep, rows)


def weighted_mean(values: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """`mean(values * weight)` of values [N], which may be anything where the weight is 0.

    ValueError: there are no values, or the weights do not fit or are a mask (a mean too small).

    >>> import jax.numpy as jnp
    >>> float(weighted_mean(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([1.5, 1.5, 0.0])))
    1.5
    """
    if not values.size:
        raise ValueError(f"a mean over no examples: values have the shape {values.shape}.")
    if weight is None:
        return jnp.mean(values)
    check_weight(weight, len(values))
    if jnp.issubdtype(jnp.result_type(weight), jnp.bool_):
        raise ValueError(
            "the weight is a bool mask; give float weights: mask / mask.mean(), or what "
            "clipjax.adapt.losses.weigh makes of a batch."
        )
    return jnp.mean(jnp.where(weight != 0, values * weight, 0))  # 0 times NaN is NaN


def smoothed_cross_entropy(
    logits: jax.Array, labels: jax.Array, smoothing: float = 0.0, weight: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, section 7), in nats.

    The target is 1 - smoothing + smoothing / K on the label and smoothing / K on other classes, as
    in torch and optax.

    Args:
      logits: float [..., N, K]; leading axes (ensemble members) are averaged over.
      labels: int [N] in 0..K-1; a traced one outside makes loss and gradient NaN.
      smoothing: in [0, 1).
      weight: float [N], of `weigh`; all 1 by default.

    Raises:
      ValueError: labels or weights do not fit (`clipjax.adapt.checks.check_labels`).

    >>> import jax.numpy as jnp
    >>> round(float(smoothed_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))), 4)
    1.3863
    """
    check_labels(logits, labels, weight)
    labels, known = known_labels(labels, logits.shape[-1], weight)
    if weight is not None:
        logits = jnp.where(weight[:, None] != 0, logits, 0)
    logp = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    index = jnp.broadcast_to(labels, logits.shape[:-1])[..., None]
    picked = jnp.take_along_axis(logp, index, axis=-1)[..., 0]
    picked = picked * jnp.where(known, 1.0, jnp.nan)  # a factor: the gradient becomes NaN too
    loss = -(1.0 - smoothing) * picked - smoothing * jnp.mean(logp, axis=-1)
    return weighted_mean(loss.reshape(-1, loss.shape[-1]).mean(axis=0), weight)


def label_accuracy(
    logits: jax.Array, labels: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
    """Share of examples whose largest logit is the label; arguments as `smoothed_cross_entropy`."""
    labels, known = known_labels(labels, logits.shape[-1], weight)
    hit = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    hit = jnp.where(known, hit, jnp.nan)
    return weighted_mean(hit.reshape(-1, hit.shape[-1]).mean(axis=0), weight)


def class_loss(
    logits: jax.Array, source: dict[str, jax.Array], smoothing: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics) of logits [..., N, K] and a part of a batch that `weigh` went through."""
    label, weight = source["label"], source.get("weight")
    loss = smoothed_cross_entropy(logits, label, smoothing, weight)
    return loss, {"class_loss": loss, "source_accuracy": label_accuracy(logits, label, weight)}


def diversity_hinge(
    outputs: jax.Array, margin: float, weight: jax.Array | None = None
) -> jax.Array:
    """Mean of max(0, margin - standard deviation over an ensemble's members), of each output.

    Vahidi et al. 2023 (arXiv 2308.14705), after VICReg's variance term. `outputs` are the members'
    logits, float [M, N, K], `margin` is in their units, `weight` float [N] of `weigh`.

    >>> import jax.numpy as jnp
    >>> float(diversity_hinge(jnp.zeros((3, 2, 4)), 0.5))  # all alike: the whole margin
    0.5
    """
    if weight is not None:
        check_weight(weight, outputs.shape[1])
        outputs = jnp.where(weight[:, None] != 0, outputs, 0)
    variance = jnp.var(outputs.astype(jnp.float32), axis=0)
    # The bare root has an infinite gradient where all members agree.
    spread = jnp.sqrt(variance + 1e-12) - 1e-6
    return weighted_mean(jnp.maximum(0.0, margin - spread).mean(axis=-1), weight)


def domain_cross_entropy(
    logits: list[jax.Array], weights: list[jax.Array | None]
) -> tuple[jax.Array, list[jax.Array]]:
    """The domain loss: cross-entropy, mean over each domain, then mean over domains.

    Args:
      logits: per domain, float [N_d, D]; the list index is the domain's label (source 0). For two
        domains also one logit, [N_d, 1] or [N_d], whose sigmoid is the probability of domain 1.
      weights: per domain, float [N_d] of `weigh`, or None.

    Returns:
      (loss, accuracy of the discriminator on each domain).
    """
    losses, accuracies = [], []
    for domain, (values, weight) in enumerate(zip(logits, weights, strict=True)):
        values = domain_logits(values, len(logits))
        labels = jnp.full(values.shape[0], domain)
        losses.append(smoothed_cross_entropy(values, labels, weight=weight))
        accuracies.append(label_accuracy(values, labels, weight))
    return jnp.mean(jnp.stack(losses)), accuracies
