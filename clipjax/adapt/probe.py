"""The linear probe in closed form: logistic regression whose strength validation images choose.

As CLIP's paper has it (Radford et al. 2021, arXiv 2103.00020, appendix A.3): features as they are,
the source's labels, C on a grid by the accuracy on the source's validation images. The target is
not read. CoOp's code (Zhou et al. 2022, arXiv 2109.01134, lpclip/linear_probe.py) goes on from the
best of seven strengths by bisection, which is `rounds=8` with `strengths=COOP`; its features have
CLIP's own length, these variance 1, for which strengths are others.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.linear import checked, every, linear_logits, predict_linear
from clipjax.adapt.logistic import fit_logistic
from clipjax.adapt.losses import label_accuracy, smoothed_cross_entropy
from clipjax.adapt.method import VALIDATION, Backbone, Classes, ClosedForm, Method
from clipjax.adapt.moments import domain_map, moments

PyTree = Any
# scikit-learn's C on features of variance 1; each about three times the one before.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
COOP = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)


def best_head(
    x: jax.Array,
    labels: jax.Array,
    held: jax.Array,
    truth: jax.Array,
    classes: int,
    grid: Sequence[float] = STRENGTHS,
) -> tuple[PyTree, jax.Array]:
    """The logistic regression on features x [N, P] that is best on `held` [M, P], and its C.

    Best is the highest accuracy, among these the lowest cross-entropy; `labels` int [N] and `truth`
    int [M] are below `classes`. It can be traced.
    """
    tried = jnp.asarray(grid, jnp.float32)
    heads, right, loss = jax.lax.map(_judged(x, labels, held, truth, classes), tried)
    best = jnp.argmin(jnp.where(right == right.max(), loss, jnp.inf))
    return jax.tree.map(lambda each: each[best], heads), tried[best]


def halved_head(
    x: jax.Array,
    labels: jax.Array,
    held: jax.Array,
    truth: jax.Array,
    classes: int,
    grid: Sequence[float] = COOP,
    rounds: int = 8,
) -> tuple[PyTree, jax.Array]:
    """As `best_head`, by CoOp's bisection: the last head taken, and its C.

    It starts with a tenth and ten times of the first C of the highest accuracy. In each round the
    end of the higher accuracy is taken, of equal ones the lower, and the half on its side is next.
    """
    one, tried = _judged(x, labels, held, truth, classes), jnp.asarray(grid, jnp.float32)

    def halve(ends, _):
        heads, right, _ = jax.lax.map(one, jnp.exp(ends))
        upper = (right[0] < right[1]).astype(jnp.int32)
        middle, taken = ends.mean(), ends[upper]
        after = jnp.where(upper == 1, jnp.stack([middle, taken]), jnp.stack([taken, middle]))
        return after, (jax.tree.map(lambda each: each[upper], heads), jnp.exp(taken))

    peak = tried[jnp.argmax(jax.lax.map(lambda c: one(c)[1], tried))]
    ends = jnp.log(peak) + jnp.log(10.0) * jnp.array([-1.0, 1.0])
    _, found = jax.lax.scan(halve, ends, None, rounds)
    return jax.tree.map(lambda each: each[-1], found)


def _judged(x, labels, held, truth, classes: int):
    """C -> (head of x, its accuracy on `held`, its cross-entropy there)."""
    source = moments(x)
    same = domain_map(source, source, "none")

    def one(c):
        head = fit_logistic(every(x, labels), classes, c, same, source[1])[0]
        logits = linear_logits(head, held)
        return head, label_accuracy(logits, truth), smoothed_cross_entropy(logits, truth)

    return one


def from_logistic(made: Method) -> Method:
    """A method whose linear class head starts as the best logistic regression: LP-FT.

    Kumar et al. 2022 (arXiv 2202.10054): a head that fits the features before they move distorts
    them less. As in their code it is fitted to the end, on images without augmentation, its
    strength chosen on the source's validation images; their grid is finer (100 values of C), and
    they divide features by one number, not each by its own spread. Whatever else the method starts
    with stays.
    """

    def start(data, classes: Classes, own):
        before = own if made.start is None else made.start(data, classes, own)
        (x, labels), (held, truth) = (
            (data[part]["inputs"], data[part]["label"]) for part in ("source", VALIDATION)
        )
        head, _ = best_head(x, labels, held, truth, len(classes.names))
        return {**before, **head}

    return made._replace(start=start, start_reads=(*made.start_reads, VALIDATION))


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    strengths: tuple[float, ...] = STRENGTHS,
    rounds: int = 0,
) -> ClosedForm:
    """Logistic regression on the source, of the best of `strengths` on its validation images.

    It is that of `best_head`, with `rounds` above 0 of `halved_head`. Parameters hold the
    "strength" taken, too.

    ValueError: no strengths, or one that is not positive, rounds below 0; in the fit, missing or
    empty parts.
    """
    grid = (strengths,) if isinstance(strengths, (int, float)) else tuple(strengths)
    if not grid or not all(isinstance(c, (int, float)) and 0 < c < float("inf") for c in grid):
        raise ValueError(f"strengths is {strengths!r}; give positive numbers, as scikit-learn's C.")
    if not isinstance(rounds, int) or rounds < 0:
        raise ValueError(f"rounds is {rounds!r}; give a whole number, 0 for the grid alone.")
    more = (halved_head, (grid, rounds)) if rounds else (best_head, (grid,))
    solve = jax.jit(lambda *parts: more[0](*parts, len(classes.names), *more[1]))

    def fit(data, texts):
        found = checked(data, len(texts.names), "source", VALIDATION)
        parts = (found[part][key] for part in found for key in ("inputs", "label"))
        head, strength = solve(*parts)
        return {"probe": head | {"strength": strength}}

    return ClosedForm(fit, predict_linear(classes), reads=("source", VALIDATION), texts=False)
