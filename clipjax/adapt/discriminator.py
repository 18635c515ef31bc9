"""The domain classifier: its loss, and what keeps it smooth (gradient penalty, spectral norm).

- Gradient penalty: Mescheder et al. 2018 (arXiv 1801.04406, section 4.1), both their R1 and R2:
  gamma / 2 E |grad_f D(f)|^2 for either domain, D the log odds of an example's own domain against
  the others. It has no gradient for the features, and is zero where the domains cannot be told
  apart, unlike a penalty that pulls the slope to 1 (WGAN-GP, arXiv 1704.00028).
- Spectral norm: Miyato et al. 2018 (arXiv 1802.05957, section 2.1): each layer's matrix is divided
  by its largest singular value, which power iteration estimates; its vectors have no gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import domain_logits
from clipjax.adapt.losses import domain_cross_entropy, weighted_mean
from clipjax.adapt.method import DannModel

PyTree = Any
Part = Mapping[str, jax.Array]
NAME = "discriminator"  # of the domain classifier's layers among the parameters
ITERATIONS = 8  # of the power method: some 3 % too small for random matrices


def domain_loss(
    logits: Sequence[jax.Array], source: Part, target: Part
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics) of source and target logits, a mean over each source domain."""
    of_source, of_target = logits
    weights = _weights(source, target)
    each = [of_source, of_target, *[of_source] * (len(weights) - 2)]
    loss, (accuracy, of_targets, *more) = domain_cross_entropy(each, weights)
    accuracy = jnp.mean(jnp.stack([accuracy, *more])) if more else accuracy
    found = {"domain_loss": loss, "domain_accuracy_source": accuracy}
    return loss, found | {"domain_accuracy_target": of_targets}


def _weights(source: Part, target: Part) -> list[jax.Array | None]:
    """Weights of each domain's examples, by its label: source, target, further sources."""
    many = source.get("domain_weight")
    first, *others = [source.get("weight")] if many is None else many.T
    return [first, target.get("weight"), *others]


def gradient_penalty(
    discriminate: Callable[[jax.Array], jax.Array],
    features: Sequence[jax.Array],
    source: Part,
    target: Part,
) -> jax.Array:
    """Mean over domains of the mean squared slope of the log odds of each example's domain, [].

    Args:
      discriminate: features [N, F] -> domain logits [N, D] (of two also [N, 1]), row by row.
      features: of source and target, float [N, F] and [M, F]; no gradient reaches them.
      source, target: parts of a batch that `weigh` went through.

    >>> import jax.numpy as jnp
    >>> logits = lambda f: f @ jnp.array([[0.0, 3.0], [0.0, 4.0]])  # log odds 3 x + 4 y
    >>> float(gradient_penalty(logits, (jnp.ones((2, 2)), jnp.zeros((1, 2))), {}, {}))
    25.0
    """
    weights, (of_source, of_target) = _weights(source, target), features
    found = []
    for domain, weight in enumerate(weights):
        own = jax.lax.stop_gradient(of_target if domain == 1 else of_source)

        def odds(f, domain=domain):
            logits = domain_logits(discriminate(f), len(weights)).astype(jnp.float32)
            others = jnp.delete(logits, domain, axis=1, assume_unique_indices=True)
            return jnp.sum(logits[:, domain] - jax.nn.logsumexp(others, axis=1))

        found.append(weighted_mean(jnp.sum(jax.grad(odds)(own) ** 2, axis=1), weight))
    return jnp.mean(jnp.stack(found))


def spectral_norm(matrix: jax.Array, iterations: int = ITERATIONS) -> jax.Array:
    """The largest singular value of a matrix [A, B] by the power method, never above it; [].

    The start is fixed, so the estimate is a function of the matrix alone.

    >>> import jax.numpy as jnp
    >>> round(float(spectral_norm(jnp.diag(jnp.array([3.0, 1.0])))), 4)
    3.0
    """
    fixed = jax.lax.stop_gradient(matrix).astype(jnp.float32)
    unit = lambda v: v / jnp.maximum(jnp.linalg.norm(v), 1e-12)
    right = unit(jax.random.normal(jax.random.key(0), (matrix.shape[0],)) @ fixed)
    turn = lambda _, v: unit(unit(fixed @ v) @ fixed)
    right = jax.lax.fori_loop(0, iterations, turn, right)
    return unit(fixed @ right) @ matrix @ right


def spectrally_normed(model: DannModel) -> DannModel:
    """A model whose domain classifier has layers of spectral norm 1.

    Its matrices are all [A, B] among `params["discriminator"]`; a matrix of zeros stays one.
    """

    def discriminate(params, features):
        norm = lambda x: x / jnp.maximum(spectral_norm(x), 1e-12) if jnp.ndim(x) == 2 else x
        return model.discriminate({**params, NAME: jax.tree.map(norm, params[NAME])}, features)

    return model._replace(discriminate=discriminate)
