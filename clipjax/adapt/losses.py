"""Losses on arrays, masked: padding never counts, whatever it holds.

NaN, infinities and labels that are no class may stand in a masked row: neither values nor gradients
see them. `real_rows` keeps them from the networks.

With `axis_name`, the name of a mapped axis (`jax.pmap`, `jax.shard_map`), arrays are one device's
part of a batch and a result is its share: the mean of the shares over the axis is the value of the
whole batch, and so for gradients. A mean of the parts' own means would count an example more where
its part has more padding. In the same way `count`, where a function takes one, makes a result the
share of a microbatch: the real examples that one microbatch has on average
(`clipjax.adapt.step.make_step` gives it as "mask_count").
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import check_labels, check_mask, domain_logits, known_labels
from clipjax.adapt.step import Axis

PyTree = Any


def real_rows(inputs: PyTree, mask: jax.Array | None) -> PyTree:
    """Arrays [N, ...] with ones where mask [N] is False.

    For what goes through a network: a NaN in a row that does not count would still reach the
    gradient of the parameters, as 0 times NaN. Ones, because more networks have a derivative there
    than at zeros (the length of a vector has none).
    """
    if mask is None:
        return inputs

    def keep(x):
        if not jnp.ndim(x):
            return x
        check_mask(mask, len(x))
        rows = mask.astype(bool).reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(rows, x, jnp.ones((), x.dtype))

    return jax.tree.map(keep, inputs)


def masked_mean(
    values: jax.Array,
    mask: jax.Array | None,
    axis_name: Axis = None,
    count: jax.Array | None = None,
) -> jax.Array:
    """Mean of values [N] where mask [N] is True; 0 where nothing is. `count`: see above.

    Raises:
      ValueError: there are no values, or the mask is not theirs.

    >>> import jax.numpy as jnp
    >>> parts = jnp.array([[1.0, 2.0], [6.0, 0.0]]), jnp.array([[True, True], [True, False]])
    >>> shares = jax.vmap(lambda v, m: masked_mean(v, m, "parts"), axis_name="parts")(*parts)
    >>> float(shares.mean())  # of 1, 2 and 6
    3.0
    """
    if not values.size:
        raise ValueError(f"a mean over no examples: values have the shape {values.shape}.")
    if mask is None:
        return jnp.mean(values)  # parts are of one size
    check_mask(mask, len(values))
    mask = mask.astype(values.dtype)
    total = jnp.sum(jnp.where(mask != 0, values * mask, 0))  # 0 times NaN is NaN
    count = jnp.sum(mask) if count is None else count
    if axis_name is not None:
        total = total * jax.lax.axis_size(axis_name)
        count = jax.lax.psum(count, axis_name)
    return total / jnp.where(count > 0, count, 1.0)


def smoothed_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    smoothing: float = 0.0,
    mask: jax.Array | None = None,
    axis_name: Axis = None,
    count: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, section 7), in nats.

    The target puts 1 - smoothing + smoothing / K on the label and smoothing / K on every other
    class, as torch and optax do.

    Args:
      logits: float [..., N, K]; leading axes (ensemble members) are averaged over.
      labels: int [N], from 0 to K - 1. A traced one that lies outside makes loss and gradient NaN.
      smoothing: in [0, 1).
      mask: bool [N], False on padding.
      axis_name: of a mapped axis, see above.
      count: of a microbatch, see above.

    Raises:
      ValueError: labels or mask do not fit (`clipjax.adapt.checks.check_labels`).

    >>> import jax.numpy as jnp
    >>> round(float(smoothed_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))), 4)
    1.3863
    """
    check_labels(logits, labels, mask)
    labels, known = known_labels(labels, logits.shape[-1], mask)
    if mask is not None:
        logits = jnp.where(mask.astype(bool)[:, None], logits, 0)
    logp = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(
        logp, jnp.broadcast_to(labels, logits.shape[:-1])[..., None], axis=-1
    )[..., 0]
    picked = picked * jnp.where(known, 1.0, jnp.nan)  # times: the gradient becomes NaN too
    loss = -(1.0 - smoothing) * picked - smoothing * jnp.mean(logp, axis=-1)
    return masked_mean(loss.reshape(-1, loss.shape[-1]).mean(axis=0), mask, axis_name, count)


def label_accuracy(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array | None = None,
    axis_name: Axis = None,
    count: jax.Array | None = None,
) -> jax.Array:
    """Share of examples whose largest logit is the label. Arguments as `smoothed_cross_entropy`'s.

    NaN where a label that counts is no class, and otherwise never.
    """
    labels, known = known_labels(labels, logits.shape[-1], mask)
    hit = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    hit = jnp.where(known, hit, jnp.nan)
    return masked_mean(hit.reshape(-1, hit.shape[-1]).mean(axis=0), mask, axis_name, count)


def diversity_hinge(
    outputs: jax.Array,
    margin: float,
    mask: jax.Array | None = None,
    axis_name: Axis = None,
    count: jax.Array | None = None,
) -> jax.Array:
    """Keeps the members of an ensemble apart: mean of max(0, margin - spread over members).

    The spread is the standard deviation across members of each output (Vahidi et al. 2023, arXiv
    2308.14705, after VICReg's variance term); members that agree to less than `margin` pay.

    Args:
      outputs: float [M, N, K], the members' logits.
      margin: the spread below which it costs, in units of the outputs.
      mask: bool [N], False on padding.
      axis_name: of a mapped axis, see above.
      count: of a microbatch, see above.

    >>> import jax.numpy as jnp
    >>> float(diversity_hinge(jnp.zeros((3, 2, 4)), 0.5))  # all alike: the whole margin
    0.5
    """
    if mask is not None:
        check_mask(mask, outputs.shape[1])
        outputs = jnp.where(mask.astype(bool)[:, None], outputs, 0)
    variance = jnp.var(outputs.astype(jnp.float32), axis=0)
    # Not the bare root: its gradient is infinite where all members agree.
    spread = jnp.sqrt(variance + 1e-12) - 1e-6
    return masked_mean(jnp.maximum(0.0, margin - spread).mean(axis=-1), mask, axis_name, count)


def domain_cross_entropy(
    logits: list[jax.Array],
    masks: list[jax.Array | None],
    axis_name: Axis = None,
    counts: list[jax.Array | None] | None = None,
) -> tuple[jax.Array, list[jax.Array]]:
    """The domain loss: cross-entropy, mean over each domain, then mean over domains.

    Args:
      logits: per domain, float [N_d, D]; the list index is the domain's label (source 0). Of two
        domains also one logit, [N_d, 1] or [N_d], of which the sigmoid is the probability of
        domain 1.
      masks: per domain, bool [N_d] or None.
      axis_name: of a mapped axis, see above.
      counts: per domain, of a microbatch, see above.

    Returns:
      (loss, accuracy of the discriminator on each domain).

    Raises:
      ValueError: logits of another shape, or fewer of them than domains.
    """
    losses, accuracies = [], []
    counts = [None] * len(logits) if counts is None else counts
    for domain, (values, mask, count) in enumerate(zip(logits, masks, counts, strict=True)):
        values = domain_logits(values, len(logits))
        labels = jnp.full(values.shape[0], domain)
        shared = {"mask": mask, "axis_name": axis_name, "count": count}
        losses.append(smoothed_cross_entropy(values, labels, **shared))
        accuracies.append(label_accuracy(values, labels, **shared))
    return jnp.mean(jnp.stack(losses)), accuracies
