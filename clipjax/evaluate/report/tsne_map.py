"""t-SNE of some hundred points in NumPy: exact sums, which at this size cost less than trees."""

import numpy as np

_COMPONENTS = 50  # of a PCA before t-SNE, as van der Maaten and Hinton 2008 do
_ITERATIONS, _EARLY = 500, 250  # in all, and with exaggeration; twice as many move little
_EXAGGERATION, _FAR = 12.0, 1e-12


def tsne(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Map points float [N, F], N at least 6 and F at least 2, to the plane: float32 [N, 2].

    Van der Maaten and Hinton 2008 (JMLR 9) on at most 50 principal components, with a perplexity of
    30 or the largest that fewer points allow. Numbers are scikit-learn's: from the first two
    components at a scale of 1e-4; 250 steps with affinities times 12 and momentum 0.5, 250 more
    with momentum 0.8; a rate of N / 48 or 50, each coordinate's raised and lowered as its gradient
    keeps or changes its sign. `seed` draws what keeps equal points apart.
    """
    x, count = principal(np.asarray(x, np.float64), _COMPONENTS), len(x)
    joint = affinities(x, min(30.0, (count - 1) / 3)).astype(np.float32)
    y = x[:, :2] / max(x[:, 0].std(), 1e-30) * 1e-4
    y = (y + np.random.default_rng(seed).normal(0, 1e-9, y.shape)).astype(np.float32)
    step, gains = np.zeros_like(y), np.ones_like(y)
    rate, ones = max(count / _EXAGGERATION / 4, 50.0), np.ones((count, 1), np.float32)
    near, pull, exaggerated = np.empty_like(joint), np.empty_like(joint), _EXAGGERATION * joint
    for number in range(_ITERATIONS):
        early = number < _EARLY
        squares = np.sum(y * y, axis=1)
        np.dot(y, -2 * y.T, out=near)
        near += squares[:, None]
        near += squares + 1
        np.reciprocal(near, out=near)
        np.fill_diagonal(near, 0)
        np.multiply(near, -1 / near.sum(), out=pull)
        pull += exaggerated if early else joint
        pull *= near
        # Row i: 4 sum_j (p - q) n (y_i - y_j), of n = 1 / (1 + |y_i - y_j|^2) and q = n / sum n.
        both = pull @ np.concatenate([y, ones], axis=1)
        slope = 4 * (both[:, 2:] * y - both[:, :2])
        gains = np.maximum(np.where(step * slope < 0, gains + 0.2, gains * 0.8), 0.01)
        step = (0.5 if early else 0.8) * step - rate * gains * slope
        y = y + step
    return y


def principal(x: np.ndarray, most: int) -> np.ndarray:
    """Return the first components of points [N, F], at most `most`, each with a sign of its own."""
    x = x - x.mean(axis=0)
    u, s, v = np.linalg.svd(x, full_matrices=False)
    signs = np.sign(v[np.arange(len(v)), np.abs(v).argmax(axis=1)])
    return (u * s * signs)[:, :most]


def affinities(x: np.ndarray, perplexity: float) -> np.ndarray:
    """Return p [N, N], symmetric with sum 1, of points [N, F]: rows' entropies are log perplexity.

    >>> p = affinities(np.array([[0.0], [1.0], [3.0], [7.0]]), 2.0)
    >>> bool(np.allclose(p, p.T)), round(float(p.sum()), 6)
    (True, 1.0)
    """
    squares = np.sum(x * x, axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0)
    apart = ~np.eye(len(x), dtype=bool)
    distances = distances[apart].reshape(len(x), -1).astype(np.float32)
    distances -= distances.min(axis=1, keepdims=True)
    # A row's precision by halving, its logarithm around that of its mean distance.
    middle = -np.log(np.maximum(distances.mean(axis=1), 1e-30))
    low, high = middle - 16, middle + 16
    for _ in range(22):
        middle = (low + high) / 2
        scaled = distances * np.exp(middle)[:, None]
        weights = np.exp(-scaled)
        total = weights.sum(axis=1)
        entropy = np.log(total) + np.einsum("ij,ij->i", weights, scaled) / total
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    found = np.zeros((len(x), len(x)))
    found[apart] = (weights / total[:, None]).reshape(-1)
    found = found + found.T
    return np.maximum(found / found.sum(), _FAR)
