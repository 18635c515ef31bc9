"""Maximum mean discrepancy: DAN (Long et al. 2015, arXiv 1502.02791), JAN (2017, arXiv 1605.06636).

MMD^2 = mean k(s, s') + mean k(t, t') - 2 mean k(s, t) over pairs of different examples (Gretton et
al. 2012, equation 3). k is a mean of Gaussian kernels exp(-|x - y|^2 / (2 a v)) of several widths
a, with v the median squared distance of the batch. JAN's kernel is the product of that on features
and of exp(-|p - q|^2 / 1.68) on class probabilities, as in the authors' code.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.method import Backbone, Classes, DannModel, Head, Method
from clipjax.adapt.pair import Domain, clean, paired_method, with_term
from clipjax.adapt.step import Loss

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
_JOINT = 1.68  # JAN's kernel on probabilities: exp(-d / this)


def squared_distances(x: jax.Array) -> jax.Array:
    """Squared distances [N, N] of the rows of x [N, F]."""
    squares = jnp.sum(x * x, axis=1)
    found = squares[:, None] + squares - 2 * jnp.matmul(x, x.T, precision="highest")
    return jnp.maximum(found, 0.0)


def median(values: jax.Array, real: jax.Array) -> jax.Array:
    """The median of the values, none negative, where `real`, bool of the same shape; float32 [].

    As NumPy's, to the bit, by halving the range of floats 31 times (as integers they are in the
    same order): on a CPU sorting the distances of 128 features takes 40 times as long. Of no values
    it is infinity.

    >>> import jax.numpy as jnp
    >>> float(median(jnp.array([5.0, 1.0, 2.0, 9.0]), jnp.array([True, True, True, False])))
    2.0
    """
    values = jnp.where(real, jnp.abs(values).astype(jnp.float32), jnp.inf)  # -0 has a sign bit
    bits, count = jax.lax.bitcast_convert_type(values, jnp.int32), jnp.sum(real)
    below = lambda bound: jnp.sum((bits <= bound).astype(jnp.int32))

    def halve(_, ends):
        low, high = ends
        middle = low + (high - low) // 2
        enough = below(middle) > (count - 1) // 2
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    lower, _ = jax.lax.fori_loop(0, 31, halve, (jnp.min(bits), jnp.max(bits)))
    above = jnp.min(jnp.where(bits > lower, bits, jnp.max(bits)))
    upper = jnp.where(below(lower) > count // 2, lower, above)
    one, two = (jax.lax.bitcast_convert_type(x, jnp.float32) for x in (lower, upper))
    return (one + two) / 2


def gaussian_kernel(
    distances: jax.Array, weight: jax.Array, widths: Sequence[float] = WIDTHS
) -> jax.Array:
    """The mean Gaussian kernel [N, N] of squared distances [N, N].

    The median is over pairs of different rows whose weights [N] are not 0, without a gradient.
    """
    real = (weight != 0)[:, None] & (weight != 0) & ~jnp.eye(len(weight), dtype=bool)
    middle = median(jax.lax.stop_gradient(distances), real)
    scale = jnp.where(jnp.any(real), jnp.maximum(middle, 1e-9), 1.0)
    return sum(jnp.exp(-distances / (2 * width * scale)) for width in widths) / len(widths)


def discrepancy(kernel: jax.Array, weight: jax.Array, of_source: int) -> jax.Array:
    """MMD^2 of a kernel [N, N] whose first `of_source` rows are of the source.

    The mean over pairs of different examples, weighted by products of weights [N]; it may be
    negative. A domain of fewer than two real examples has no pairs of its own, and counts 0.
    """
    source = jnp.arange(len(weight)) < of_source
    pairs = jnp.where(jnp.eye(len(weight), dtype=bool), 0, weight[:, None] * weight)

    def mean(rows, columns):
        mask = pairs * rows[:, None] * columns
        total = jnp.sum(mask)
        return jnp.sum(jnp.where(mask != 0, mask * kernel, 0)) / jnp.where(total > 0, total, 1.0)

    return mean(source, source) + mean(~source, ~source) - 2 * mean(source, ~source)


def mmd(
    source: jax.Array,
    target: jax.Array,
    weights: tuple[jax.Array, jax.Array] | None = None,
    shares: tuple[jax.Array, jax.Array] | None = None,
    widths: Sequence[float] = WIDTHS,
) -> jax.Array:
    """MMD^2 of features [N, F] and [M, F]; with class probabilities `shares` that of JAN.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0], [0.0]])  # the median is of pairs of both: 1
    >>> float(mmd(x, x + 1.0, widths=(0.5,))) == 2 - 2 * float(jnp.exp(-1.0))
    True
    """
    ones = lambda x: jnp.ones(len(x), jnp.float32)
    weight = jnp.concatenate((ones(source), ones(target)) if weights is None else weights)
    x = clean(jnp.concatenate([source, target]).astype(jnp.float32), weight)
    kernel = gaussian_kernel(squared_distances(x), weight, widths)
    if shares is not None:
        p = clean(jnp.concatenate(shares), weight)
        kernel = kernel * jnp.exp(-squared_distances(p) / _JOINT)
    return discrepancy(kernel, weight, len(source))


def make_loss(
    model: DannModel,
    *,
    weight: float = 1.0,
    joint: bool = False,
    widths: Sequence[float] = WIDTHS,
    label_smoothing: float = 0.0,
    joined: bool = False,
) -> Loss:
    """The class loss plus `weight` times `mmd` of the adapted features; with `joint`, JAN.

    ValueError: a negative weight, or widths that are not all above 0.
    """
    if not widths or min(widths) <= 0:
        raise ValueError(f"widths are {widths!r}; give numbers above 0.")

    def term(source: Domain, target: Domain):
        shares = (source.shares, target.shares) if joint else None
        weights = (source.weight, target.weight)
        return mmd(source.features, target.features, weights, shares, widths)

    options = {"weight": weight, "label_smoothing": label_smoothing, "joined": joined}
    return with_term(model, "mmd_loss", term, **options)


def make_method(
    backbone: Backbone, classes: Classes, *, head: Head, joined: bool | None = None, **options: Any
) -> Method:
    """DAN or JAN on a backbone; `options` are those of `make_loss`."""
    more = {"joined": joined, "on_features": not options.get("joint")}
    return paired_method(backbone, head, make_loss, **more, **options)
