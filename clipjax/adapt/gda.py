"""Gaussian discriminant analysis on source features that are mapped onto the target's.

Wang et al. 2024 (ICLR, arXiv 2402.04087, equations 4 to 6): one Gaussian a class with a shared
covariance is a linear head, kernel S^-1 mu_c and bias log p_c - mu_c' S^-1 mu_c / 2. The inverse
is the ridge estimate of Kubokawa and Srivastava 2008, P ((N - 1) cov + tr(cov) I)^-1 of the
covariance within classes, which N < P examples allow; of many examples P is replaced by the factor
without bias, N - K - P - 1, or the logits would vanish beside log p_c. No steps: one pass over the
features, a solve and CORAL's two eigendecompositions.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.debias import check_tau, debiased
from clipjax.adapt.linear import (
    Examples,
    checked,
    count_classes,
    every,
    in_order,
    label_sums,
    linear_head,
    predict_linear,
)
from clipjax.adapt.method import Backbone, Classes, ClosedForm
from clipjax.adapt.moments import DomainMap, check_match, domain_map, moments, sum_blocks

PyTree = Any
EACH_CLASS = "a Gaussian"


def class_means(examples: Examples, classes: int) -> tuple[jax.Array, jax.Array]:
    """Number [K] and means [K, P] of each class's examples; 0 of a class without any."""

    def part(real, rows, truth, weight):
        own = real * weight
        return label_sums(truth, classes, own, rows * own[:, None])

    counts, sums = sum_blocks(part, examples)
    return counts, sums / jnp.maximum(counts, 1)[:, None]


def fit_gda(
    examples: Examples,
    classes: int,
    to_target: DomainMap,
    source: tuple[jax.Array, jax.Array],
    *,
    few: bool = False,
) -> PyTree:
    """The discriminant of mapped source features as a linear head for target features.

    Args:
      examples: of the source.
      classes: K; those without examples get a prior of half an example.
      to_target: the source's map.
      source: the source's `moments`.
      few: as the paper's code has it for few shots: the factor is P, classes are equally likely.
    """
    mean, cov = source
    width, count = len(mean), jnp.sum(examples.weight)
    counts, means = class_means(examples, classes)
    apart = jnp.where(counts[:, None] > 0, means - mean, 0)
    matrix = to_target.matrix
    within = cov * (count - 1) - (apart * counts[:, None]).T @ apart  # (N - 1) cov of the paper
    within = matrix.T @ within @ matrix
    ridge = jnp.maximum(jnp.trace(within) / jnp.maximum(count - 1, 1), 1e-12)
    mapped = apart @ matrix + to_target.mean
    freedom = width if few else jnp.maximum(width, count - classes - width - 1)
    kernel = freedom * jnp.linalg.solve(within + ridge * jnp.eye(width), mapped.T)
    shares = jnp.full(classes, 1 / classes) if few else jnp.maximum(counts, 0.5) / count
    return linear_head(kernel, jnp.log(shares) - jnp.sum(mapped * kernel.T, axis=1) / 2)


def check_counts(counts: Any, names: tuple[str, ...], what: str = EACH_CLASS) -> None:
    """Raise ValueError for classes without examples; `counts` None are not known yet."""
    if counts is None or (counts > 0).all():
        return
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise ValueError(
        f"no source image of class {missing[0]!r}{more}: {what} needs one of each class; add "
        "some, or take logistic regression, which leaves such classes unlikely."
    )


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    match: str = "coral",
    tau: float = 0.5,
    shrink: float = 1e-2,
) -> ClosedForm:
    """A Gaussian discriminant on aligned features: variants "gda", and "debiased" by `tau`.

    Options as of `clipjax.adapt.logistic`.

    ValueError: an unknown map; in the fit, missing or empty parts, a class without source images
    (of traced labels such a class is unlikely instead).
    """
    check_match(match)
    check_tau(tau)

    @jax.jit
    def solve(x, labels, target):
        source = moments(x)
        to_target = domain_map(source, moments(target), match, shrink)
        head = fit_gda(every(x, labels), len(classes.names), to_target, source)
        return {"gda": head, "debiased": debiased(head, target, tau)}

    def fit(data, texts):
        found = checked(data, len(texts.names), "source", "target")
        check_counts(count_classes(found["source"]["label"], len(texts.names)), texts.names)
        return in_order(solve(*found["source"].values(), found["target"]["inputs"]), "gda")

    more = {"texts": False, "each_class": EACH_CLASS}
    return ClosedForm(fit, predict_linear(classes), reads=("source", "target"), **more)
