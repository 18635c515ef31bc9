"""Losses on arrays, masked: padding never counts.

With `axis_name`, the name of a mapped axis (`jax.pmap`, `jax.shard_map`), arrays are one device's
part of a batch and a result is its share: the mean of the shares over the axis is the value of the
whole batch, and so for gradients. A mean of the parts' own means would count an example more where
its part has more padding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def masked_mean(
    values: jax.Array, mask: jax.Array | None, axis_name: str | None = None
) -> jax.Array:
    """Mean of values [N] where mask [N] is True; 0 where nothing is.

    >>> import jax.numpy as jnp
    >>> parts = jnp.array([[1.0, 2.0], [6.0, 0.0]]), jnp.array([[True, True], [True, False]])
    >>> shares = jax.vmap(lambda v, m: masked_mean(v, m, "parts"), axis_name="parts")(*parts)
    >>> float(shares.mean())  # of 1, 2 and 6
    3.0
    """
    if mask is None:
        return jnp.mean(values)  # parts are of one size
    mask = mask.astype(values.dtype)
    count = jnp.sum(mask)
    if axis_name is None:
        return jnp.sum(values * mask) / jnp.maximum(count, 1.0)
    parts = jax.lax.axis_size(axis_name)
    return jnp.sum(values * mask) * parts / jnp.maximum(jax.lax.psum(count, axis_name), 1.0)


def smoothed_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    smoothing: float = 0.0,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, section 7), in nats.

    The target puts 1 - smoothing + smoothing / K on the label and smoothing / K on every other
    class, as torch and optax do.

    Args:
      logits: float [..., N, K]; leading axes (ensemble members) are averaged over.
      labels: int [N].
      smoothing: in [0, 1).
      mask: bool [N], False on padding.
      axis_name: of a mapped axis, see above.

    >>> import jax.numpy as jnp
    >>> round(float(smoothed_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))), 4)
    1.3863
    """
    logp = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(
        logp, jnp.broadcast_to(labels, logits.shape[:-1])[..., None], axis=-1
    )[..., 0]
    loss = -(1.0 - smoothing) * picked - smoothing * jnp.mean(logp, axis=-1)
    return masked_mean(loss.reshape(-1, loss.shape[-1]).mean(axis=0), mask, axis_name)


def diversity_hinge(
    outputs: jax.Array,
    margin: float,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Keeps the members of an ensemble apart: mean of max(0, margin - spread over members).

    The spread is the standard deviation across members of each output (Vahidi et al. 2023, arXiv
    2308.14705, after VICReg's variance term); members that agree to less than `margin` pay.

    Args:
      outputs: float [M, N, K], the members' logits.
      margin: the spread below which it costs, in units of the outputs.
      mask: bool [N], False on padding.
      axis_name: of a mapped axis, see above.

    >>> import jax.numpy as jnp
    >>> float(diversity_hinge(jnp.zeros((3, 2, 4)), 0.5))  # all alike: the whole margin
    0.5
    """
    variance = jnp.var(outputs.astype(jnp.float32), axis=0)
    # Not the bare root: its gradient is infinite where all members agree.
    spread = jnp.sqrt(variance + 1e-12) - 1e-6
    return masked_mean(jnp.maximum(0.0, margin - spread).mean(axis=-1), mask, axis_name)


def domain_cross_entropy(
    logits: list[jax.Array],
    masks: list[jax.Array | None],
    axis_name: str | None = None,
) -> tuple[jax.Array, list[jax.Array]]:
    """The domain loss: cross-entropy, mean over each domain, then mean over domains.

    Args:
      logits: per domain, float [N_d, D]; the list index is the domain's label (source 0).
      masks: per domain, bool [N_d] or None.
      axis_name: of a mapped axis, see above.

    Returns:
      (loss, accuracy of the discriminator on each domain).
    """
    losses, accuracies = [], []
    for domain, (values, mask) in enumerate(zip(logits, masks, strict=True)):
        labels = jnp.full(values.shape[0], domain)
        losses.append(smoothed_cross_entropy(values, labels, mask=mask, axis_name=axis_name))
        hit = (jnp.argmax(values, axis=-1) == domain).astype(jnp.float32)
        accuracies.append(masked_mean(hit, mask, axis_name))
    return jnp.mean(jnp.stack(losses)), accuracies
