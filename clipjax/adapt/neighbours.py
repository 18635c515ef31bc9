"""Answers drawn towards those of similar images: a Laplacian term over nearest neighbours.

TransCLIP (Zanella et al. 2024, arXiv 2406.01837) adds -sum_ij w_ij z_i' z_j to what is minimised,
w_ij = max(0, cos(f_i, f_j)) where j is among the k nearest neighbours of i, and 0 elsewhere. Its
decoupled step for the assignments z, repeated, is softmax of what images say by themselves plus
the answers of their neighbours, here the mean over both directions and k of (w_ij + w_ji) z_j.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

ROUNDS = 5  # of the assignments in each round of the Gaussians, as the authors' code has it
_CELLS = 2**24  # similarities that are worked on at once: 67 MB


class Graph(NamedTuple):
    """The nearest neighbours of each of N images."""

    index: jax.Array  # int32 [N, k]
    weight: jax.Array  # float32 [N, k], max(0, cosine)


def nearest(x: jax.Array, count: int) -> Graph:
    """The `count` nearest others of each row of x [N, P] by cosine; N - 1 where there are no more.

    All pairs are compared, in blocks: time grows with the square of N, memory with N.
    """
    count = min(count, len(x) - 1)
    unit = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    def of_row(given):
        row, own = given
        apart = (unit @ row).at[own].set(-jnp.inf)
        weight, index = jax.lax.top_k(apart, count)
        return Graph(index, jnp.maximum(weight, 0.0))

    rows = jnp.arange(len(x))
    return jax.lax.map(of_row, (unit, rows), batch_size=max(1, min(len(x), _CELLS // len(x))))


def drawn(z: jax.Array, graph: Graph) -> jax.Array:
    """(W z + W' z) / 2k of assignments z [N, K].

    >>> import jax.numpy as jnp
    >>> graph = Graph(jnp.array([[1], [0], [0]]), jnp.array([[1.0], [1.0], [0.5]]))
    >>> drawn(jnp.eye(3), graph).tolist()
    [[0.0, 1.0, 0.25], [1.0, 0.0, 0.0], [0.25, 0.0, 0.0]]
    """
    index, weight = graph
    along = jnp.einsum("nk,nkc->nc", weight, z[index])
    against = jnp.zeros_like(z).at[index].add(weight[:, :, None] * z[:, None])
    return (along + against) / (2 * max(index.shape[1], 1))


def settle(logits: jax.Array, z: jax.Array, graph: Graph) -> jax.Array:
    """Assignments [N, K] after `ROUNDS` of softmax(logits + `drawn(z)`), from z on."""
    step = lambda _, z: jax.nn.softmax(logits + drawn(z, graph))
    return jax.lax.fori_loop(0, ROUNDS, step, z)
