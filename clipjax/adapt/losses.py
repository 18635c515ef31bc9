"""Losses on arrays, weighted: padding never counts, whatever it holds.

A mean over the examples of a batch is `mean(values * weight)`. `weigh` makes the weights of a
batch's masks, once, for the whole step: 0 on padding, and so large elsewhere that the mean over all
devices' and microbatches' means is the mean over the real examples of the whole batch, however
unevenly these are dealt out. A loss cannot forget a device or a padded row.

NaN, infinities and labels that are no class may stand where the weight is 0: neither values nor
gradients see them. `weigh` keeps them from the networks too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import check_labels, check_weight, domain_logits, known_labels

PyTree = Any
Axis = str | tuple[str, ...] | None  # the name of a mapped axis, or of several mesh axes


def weigh(batch: PyTree, axis_name: Axis = None) -> PyTree:
    """A batch with "weight" float32 [N] beside every "mask" bool [N]; masked rows hold ones.

    A NaN in a row that does not count would still reach the gradient of the parameters, as 0 times
    NaN. Ones, because more networks have a derivative there than at zeros (the length of a vector
    has none). A part that has weights already stays as it is. Where a part is of several domains,
    "domain" [N, domains] with a 1 for each example's own, it gets "domain_weight" [N, domains] too:
    those of a mean over each domain.

    Args:
      batch: {part: {"inputs", "label", "mask", ...}}; parts without a mask count whole, and so
        does a batch of another shape.
      axis_name: of the axis that `jax.pmap` or `jax.shard_map` maps, where this is one device's
        part of the batch.

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
    if "mask" not in part:
        part = {**part, "mask": jnp.ones(len(part["domain"]), bool)}
    mask = part["mask"]
    rows = {key: value for key, value in part.items() if key != "mask"}
    for leaf in jax.tree.leaves(rows):
        if jnp.ndim(leaf):
            check_weight(mask, len(leaf), "mask")
    real = mask.astype(jnp.float32)
    count, size = jnp.sum(real), len(mask)
    if axis_name is not None:
        count, size = jax.lax.psum(count, axis_name), size * jax.lax.axis_size(axis_name)
    weight = real * (size / jnp.where(count > 0, count, 1.0))
    found = real_rows(rows, mask) | {"mask": mask, "weight": weight}
    if "domain" in part:
        found["domain_weight"] = _domain_weights(part["domain"], real, size, axis_name)
    return found


def _domain_weights(domain: jax.Array, real: jax.Array, size: int, axis_name: Axis) -> jax.Array:
    """Weights of a mean over each domain's own examples, float32 [N, domains]."""
    each = jnp.where(real[:, None] != 0, domain.astype(jnp.float32), 0)
    count = jnp.sum(each, axis=0)
    count = count if axis_name is None else jax.lax.psum(count, axis_name)
    return each * (size / jnp.where(count > 0, count, 1.0))


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
    """`mean(values * weight)` of values [N]; where the weight is 0 they may be anything.

    Raises:
      ValueError: there are no values, the weights are not theirs, or they are a mask, whose mean
        would be too small by the share of masked rows.

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
    logits: jax.Array,
    labels: jax.Array,
    smoothing: float = 0.0,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, section 7), in nats.

    The target puts 1 - smoothing + smoothing / K on the label and smoothing / K on every other
    class, as torch and optax do.

    Args:
      logits: float [..., N, K]; leading axes (ensemble members) are averaged over.
      labels: int [N], from 0 to K - 1. A traced one that lies outside makes loss and gradient NaN.
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
    picked = jnp.take_along_axis(
        logp, jnp.broadcast_to(labels, logits.shape[:-1])[..., None], axis=-1
    )[..., 0]
    picked = picked * jnp.where(known, 1.0, jnp.nan)  # times: the gradient becomes NaN too
    loss = -(1.0 - smoothing) * picked - smoothing * jnp.mean(logp, axis=-1)
    return weighted_mean(loss.reshape(-1, loss.shape[-1]).mean(axis=0), weight)


def label_accuracy(
    logits: jax.Array,
    labels: jax.Array,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Share of examples whose largest logit is the label. Arguments as `smoothed_cross_entropy`'s.

    NaN where a label that counts is no class, and otherwise never.
    """
    labels, known = known_labels(labels, logits.shape[-1], weight)
    hit = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    hit = jnp.where(known, hit, jnp.nan)
    return weighted_mean(hit.reshape(-1, hit.shape[-1]).mean(axis=0), weight)


def diversity_hinge(
    outputs: jax.Array,
    margin: float,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Keeps the members of an ensemble apart: mean of max(0, margin - spread over members).

    The spread is the standard deviation across members of each output (Vahidi et al. 2023, arXiv
    2308.14705, after VICReg's variance term); members that agree to less than `margin` pay.

    Args:
      outputs: float [M, N, K], the members' logits.
      margin: the spread below which it costs, in units of the outputs.
      weight: float [N], of `weigh`; all 1 by default.

    >>> import jax.numpy as jnp
    >>> float(diversity_hinge(jnp.zeros((3, 2, 4)), 0.5))  # all alike: the whole margin
    0.5
    """
    if weight is not None:
        check_weight(weight, outputs.shape[1])
        outputs = jnp.where(weight[:, None] != 0, outputs, 0)
    variance = jnp.var(outputs.astype(jnp.float32), axis=0)
    # Not the bare root: its gradient is infinite where all members agree.
    spread = jnp.sqrt(variance + 1e-12) - 1e-6
    return weighted_mean(jnp.maximum(0.0, margin - spread).mean(axis=-1), weight)


def domain_cross_entropy(
    logits: list[jax.Array], weights: list[jax.Array | None]
) -> tuple[jax.Array, list[jax.Array]]:
    """The domain loss: cross-entropy, mean over each domain, then mean over domains.

    Args:
      logits: per domain, float [N_d, D]; the list index is the domain's label (source 0). Of two
        domains also one logit, [N_d, 1] or [N_d], of which the sigmoid is the probability of
        domain 1.
      weights: per domain, float [N_d] of `weigh`, or None.

    Returns:
      (loss, accuracy of the discriminator on each domain).

    Raises:
      ValueError: logits of another shape, or fewer of them than domains.
    """
    losses, accuracies = [], []
    for domain, (values, weight) in enumerate(zip(logits, weights, strict=True)):
        values = domain_logits(values, len(logits))
        labels = jnp.full(values.shape[0], domain)
        losses.append(smoothed_cross_entropy(values, labels, weight=weight))
        accuracies.append(label_accuracy(values, labels, weight))
    return jnp.mean(jnp.stack(losses)), accuracies
