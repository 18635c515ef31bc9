"""The linear probe in closed form: logistic regression whose strength validation images choose.

As CLIP's paper has it (Radford et al. 2021, arXiv 2103.00020, appendix A.3): features as they are,
the source's labels, C on a grid by the accuracy on the source's validation images. The target is
not read.
"""

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import check_domain
from clipjax.adapt.linear import checked, every, linear_logits, predict_linear
from clipjax.adapt.logistic import fit_logistic
from clipjax.adapt.losses import label_accuracy, smoothed_cross_entropy
from clipjax.adapt.method import VALIDATION, Backbone, Classes, ClosedForm
from clipjax.adapt.moments import domain_map, moments

# scikit-learn's C on features of variance 1; each about three times the one before.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)


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

    @jax.jit
    def solve(x, labels, held, truth):
        source = moments(x)
        same = domain_map(source, source, "none")
        one = lambda c: fit_logistic(every(x, labels), len(classes.names), c, same, source[1])[0]
        heads = jax.lax.map(one, jnp.asarray(grid, jnp.float32))

        def judged(head):
            logits = linear_logits(head, held)
            return label_accuracy(logits, truth), smoothed_cross_entropy(logits, truth)

        right, loss = jax.vmap(judged)(heads)
        best = jnp.argmin(jnp.where(right == right.max(), loss, jnp.inf))
        head = jax.tree.map(lambda each: each[best], heads)
        return {"probe": head | {"strength": jnp.asarray(grid, jnp.float32)[best]}}

    def fit(data, texts):
        check_domain(data, VALIDATION, "inputs", "label")
        parts = [
            checked({"source": data[part]}, len(texts.names), "source")["source"]
            for part in ("source", VALIDATION)
        ]
        return solve(*(part[key] for part in parts for key in ("inputs", "label")))

    return ClosedForm(fit, predict_linear(classes), reads=("source", VALIDATION))
