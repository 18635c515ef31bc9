"""The linear probe in closed form: logistic regression whose strength validation images choose.

As CLIP's paper has it (Radford et al. 2021, arXiv 2103.00020, appendix A.3): features as they are,
the source's labels, C on a grid by the accuracy on the source's validation images. The target is
not read.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import check_domain
from clipjax.adapt.linear import checked, every, linear_logits, predict_linear
from clipjax.adapt.logistic import fit_logistic
from clipjax.adapt.losses import label_accuracy, smoothed_cross_entropy
from clipjax.adapt.method import VALIDATION, Backbone, Classes, ClosedForm, Method
from clipjax.adapt.moments import domain_map, moments

PyTree = Any
# scikit-learn's C on features of variance 1; each about three times the one before.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)


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
    source = moments(x)
    same = domain_map(source, source, "none")
    one = lambda c: fit_logistic(every(x, labels), classes, c, same, source[1])[0]
    heads = jax.lax.map(one, jnp.asarray(grid, jnp.float32))

    def judged(head):
        logits = linear_logits(head, held)
        return label_accuracy(logits, truth), smoothed_cross_entropy(logits, truth)

    right, loss = jax.vmap(judged)(heads)
    best = jnp.argmin(jnp.where(right == right.max(), loss, jnp.inf))
    head = jax.tree.map(lambda each: each[best], heads)
    return head, jnp.asarray(grid, jnp.float32)[best]


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
    backbone: Backbone, classes: Classes, *, strengths: tuple[float, ...] = STRENGTHS
) -> ClosedForm:
    """Logistic regression on the source, of the best of `strengths` on its validation images.

    The best is that of the highest accuracy, among these of the lowest cross-entropy. Parameters
    hold the "strength" taken, too.

    ValueError: no strengths, or one that is not positive; in the fit, missing or empty parts.
    """
    grid = (strengths,) if isinstance(strengths, (int, float)) else tuple(strengths)
    if not grid or not all(isinstance(c, (int, float)) and 0 < c < float("inf") for c in grid):
        raise ValueError(f"strengths is {strengths!r}; give positive numbers, as scikit-learn's C.")

    solve = jax.jit(lambda *parts: best_head(*parts, len(classes.names), grid))

    def fit(data, texts):
        check_domain(data, VALIDATION, "inputs", "label")
        parts = [
            checked({"source": data[part]}, len(texts.names), "source")["source"]
            for part in ("source", VALIDATION)
        ]
        head, strength = solve(*(part[key] for part in parts for key in ("inputs", "label")))
        return {"probe": head | {"strength": strength}}

    return ClosedForm(fit, predict_linear(classes), reads=("source", VALIDATION))
