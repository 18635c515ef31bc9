"""Position embeddings of image patches: initial values, and resizing."""

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError


def sincos_positions(grid: int, width: int, amplitude: float = 0.3) -> jax.Array:
    """Make initial position embeddings of a class token and grid^2 patches, [1 + grid^2, width].

    Sines and cosines of rows and columns (Beyer et al. 2022, arXiv 2205.01580).
    """
    quarter = -(-width // 4)
    angle = jnp.arange(grid)[:, None] / 10_000 ** (jnp.arange(quarter) / quarter)
    line = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)
    rows, columns = jnp.repeat(line, grid, axis=0), jnp.tile(line, (grid, 1))
    patches = jnp.concatenate([rows, columns], axis=1)[:, :width]
    return amplitude * jnp.concatenate([jnp.zeros((1, width)), patches])


def bicubic_matrix(source: int, target: int, a: float = -0.75) -> np.ndarray:
    """Return cubic convolution along one axis as a matrix, float32 [target, source].

    Keys 1981 with the `a` and the half-pixel centres of PyTorch's `interpolate(mode="bicubic",
    align_corners=False)`; `jax.image.resize` has a = -0.5. Borders repeat.

    >>> bicubic_matrix(2, 2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def kernel(distance):
        d = np.abs(distance)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    where = (np.arange(target) + 0.5) * source / target - 0.5
    matrix = np.zeros((target, source))
    first = np.floor(where).astype(int)
    for tap in range(-1, 3):
        column = np.clip(first + tap, 0, source - 1)
        np.add.at(matrix, (np.arange(target), column), kernel(where - (first + tap)))
    return matrix.astype(np.float32)


def resize_positions(table: np.ndarray, grid: int) -> np.ndarray:
    """Resize position embeddings to grid x grid patches, [1 + g * g, D] -> [1 + grid * grid, D].

    The class token's row and the dtype stay; the patches' rows are interpolated bicubically, as by
    transformers' `interpolate_pos_encoding=True`. CheckpointError unless the patches are a square.
    """
    old = int(np.sqrt(len(table) - 1))
    if old * old != len(table) - 1:
        fault = f"{len(table)} position embeddings are no square of patches"
        raise CheckpointError(f"{fault}, and cannot be resized; leave image_size empty.")
    if old == grid:
        return table
    matrix = bicubic_matrix(old, grid)
    square = table[1:].astype(np.float32).reshape(old, old, -1)
    square = np.einsum("ai,bj,ijd->abd", matrix, matrix, square, optimize=True)
    patches = square.reshape(grid * grid, -1).astype(table.dtype)
    return np.concatenate([table[:1], patches])


def resized_positions(
    table: jax.Array, grid: int, size: tuple[int, int], antialias: bool = False
) -> jax.Array:
    """Resize patches' position embeddings [grid * grid, D] to [rows * columns, D], in float32.

    Bicubic as by PyTorch's `interpolate`: plain (a = -0.75), or its antialiased form (a = -0.5,
    that of `jax.image.resize`).
    """
    if size == (grid, grid):
        return table
    square = table.astype(jnp.float32).reshape(grid, grid, -1)
    if antialias:
        resized = jax.image.resize(square, (*size, square.shape[-1]), "cubic")
    else:
        down, across = (bicubic_matrix(grid, length) for length in size)
        resized = jnp.einsum("ai,bj,ijd->abd", down, across, square)
    return resized.reshape(-1, square.shape[-1])
