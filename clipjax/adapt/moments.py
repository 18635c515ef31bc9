"""Domains drawn together by their statistics: centring, standardisation, CORAL. No labels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any
BLOCK = 8192  # rows worked on at once: 17 MB of 512 float32 features, 11 MB of 345 logits
MATCHES = ("coral", "standardise", "centre", "none")


class DomainMap(NamedTuple):
    """Source features x become (x - shift) @ matrix + mean, which look like the target's."""

    shift: jax.Array  # [P]: the source's mean
    matrix: jax.Array  # [P, P]
    mean: jax.Array  # [P]: the target's mean


def sum_blocks(
    part: Callable[..., PyTree], rows: tuple[jax.Array, ...], block: int = BLOCK
) -> PyTree:
    """Sum `part(weight, *rows)` over blocks of rows, so that memory does not grow with them.

    Args:
      part: (weight float32 [B], arrays [B, ...]) -> sums of any shapes. The last block begins
        early, and rows that were there before have weight 0 in it, all others 1.
      rows: arrays [N, ...].
      block: B; N where there are no more.
    """
    count = len(rows[0])
    block = min(block, count)

    def add(index, total):
        start = jnp.minimum(index * block, count - block)
        weight = (start + jnp.arange(block) >= index * block).astype(jnp.float32)
        taken = [jax.lax.dynamic_slice_in_dim(x, start, block) for x in rows]
        return jax.tree.map(jnp.add, total, part(weight, *taken))

    first = part(jnp.ones(block, jnp.float32), *(x[:block] for x in rows))
    return jax.lax.fori_loop(1, -(-count // block), add, first)


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean [P] and covariance [P, P] (over N - 1) of features [N, P]; 0 of a single one.

    >>> import jax.numpy as jnp
    >>> mean, cov = moments(jnp.array([[0.0, 1.0], [2.0, 1.0]]))
    >>> mean.tolist(), cov.tolist()
    ([1.0, 1.0], [[2.0, 0.0], [0.0, 0.0]])
    """
    return weighted_moments(x, jnp.ones(len(x), jnp.float32))


def weighted_moments(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`moments` of the rows of x [N, P] whose weight [N] is 1, those of weight 0 left out."""
    count = jnp.sum(weight)
    mean = sum_blocks(lambda real, own, rows: (real * own) @ rows, (weight, x)) / count

    def scatter(real, own, rows):
        apart = rows - mean
        return jnp.matmul((apart * (real * own)[:, None]).T, apart, precision="highest")

    return mean, sum_blocks(scatter, (weight, x)) / jnp.maximum(count - 1, 1)


def coral_map(source_cov: jax.Array, target_cov: jax.Array, shrink: float = 1e-2) -> jax.Array:
    """The matrix [P, P] that gives centred source features the target's covariance.

    C_s^-1/2 C_t^1/2 (Sun, Feng and Saenko 2016, arXiv 1511.05547, equation 3), each covariance with
    `shrink` times its mean variance added to the diagonal, so that fewer examples than features
    (a covariance without full rank) are no harm.
    """

    def root(cov, power):
        size = cov.shape[0]
        cov = cov + shrink * (jnp.trace(cov) / size) * jnp.eye(size)
        values, vectors = jnp.linalg.eigh(cov)
        values = jnp.maximum(values, 1e-12)  # all 0 where a domain is a single point
        return jnp.matmul(vectors * values**power, vectors.T, precision="highest")

    whiten, colour = root(source_cov, -0.5), root(target_cov, 0.5)
    return jnp.matmul(whiten, colour, precision="highest")


def domain_map(
    source: tuple[jax.Array, jax.Array],
    target: tuple[jax.Array, jax.Array],
    match: str = "coral",
    shrink: float = 1e-2,
) -> DomainMap:
    """The map of `MATCHES` from two domains' `moments`.

    "coral" matches mean and covariance, "standardise" mean and variances, "centre" means, "none"
    is the identity.
    """
    (source_mean, source_cov), (target_mean, target_cov) = source, target
    one = jnp.eye(len(source_mean))
    if match == "none":
        return DomainMap(source_mean, one, source_mean)
    if match == "coral":
        one = coral_map(source_cov, target_cov, shrink)
    elif match == "standardise":
        spread = lambda cov: jnp.sqrt(jnp.maximum(jnp.diag(cov), 1e-12))
        one = one * (spread(target_cov) / spread(source_cov))
    return DomainMap(source_mean, one, target_mean)


def check_match(match: str) -> None:
    """Raise ValueError for an unknown map."""
    if match not in MATCHES:
        raise ValueError(f"match is {match!r}; known: {', '.join(MATCHES)}.")
