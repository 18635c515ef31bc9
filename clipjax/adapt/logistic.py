"""Multinomial logistic regression on source features that are mapped onto the target's.

What is minimised is scikit-learn's objective, C times the summed cross-entropy plus half the
squared weights (biases are free), over features of variance 1. The solver is L-BFGS (Nocedal and
Wright 2006, algorithm 7.4) in coordinates where the first Hessian is the identity: at weights 0 it
is (diag(p) - p p') x cov + 1 / (C n), p the shares of the classes, whose two factors are small
enough for `eigh`. Every evaluation goes over the features in blocks and never maps them: the map
is applied to the weights.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.debias import check_tau, debiased
from clipjax.adapt.linear import Examples, checked, every, in_order, linear_head, predict_linear
from clipjax.adapt.method import Backbone, Classes, ClosedForm
from clipjax.adapt.moments import DomainMap, check_match, domain_map, moments, sum_blocks

PyTree = Any
HISTORY = 10  # pairs of steps and gradients that L-BFGS remembers


class _State(NamedTuple):
    at: jax.Array  # [D]
    value: jax.Array
    gradient: jax.Array  # [D]
    steps: jax.Array  # [HISTORY, D], a ring
    changes: jax.Array  # [HISTORY, D], of the gradient
    count: jax.Array
    stuck: jax.Array  # whether no step along the direction lowers the value


def minimise(
    value_and_gradient: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    start: jax.Array,
    tolerance: float = 1e-5,
    most: int = 200,
) -> tuple[jax.Array, jax.Array]:
    """L-BFGS for a smooth convex function whose Hessian is about the identity.

    Args:
      value_and_gradient: x float32 [D] -> (value, gradient [D]).
      start: float32 [D].
      tolerance: it ends where no part of the gradient is larger, or nothing lowers the value.
      most: steps.

    Returns:
      (x, number of steps).
    """

    def direction(state: _State) -> jax.Array:
        # The two-loop recursion; pairs that are not there yet are 0 and change nothing.
        last = state.count
        places = jnp.mod(last - 1 - jnp.arange(HISTORY), HISTORY)  # newest first
        products = jnp.sum(state.steps * state.changes, axis=1)
        inverse = jnp.where(products > 0, 1 / jnp.where(products > 0, products, 1), 0)

        def down(q, place):
            alpha = inverse[place] * (state.steps[place] @ q)
            return q - alpha * state.changes[place], alpha

        def up(r, given):
            place, alpha = given
            beta = inverse[place] * (state.changes[place] @ r)
            return r + (alpha - beta) * state.steps[place], None

        q, alphas = jax.lax.scan(down, state.gradient, places)
        newest = state.changes[places[0]] @ state.changes[places[0]]
        scale = jnp.where(newest > 0, products[places[0]] / jnp.where(newest > 0, newest, 1), 1)
        return -jax.lax.scan(up, q * scale, (places[::-1], alphas[::-1]))[0]

    def step(state: _State) -> _State:
        towards = direction(state)
        slope = state.gradient @ towards
        enough = lambda size, value: (
            value
            <= (
                state.value + 1e-4 * size * slope + 1e-7 * jnp.abs(state.value)  # rounding
            )
        )

        def shorter(tried):
            size = tried[0] / 2
            return size, *value_and_gradient(state.at + size * towards)

        too_long = lambda tried: ~enough(tried[0], tried[1]) & (tried[0] > 1e-4)
        first = (jnp.float32(1.0), *value_and_gradient(state.at + towards))
        size, value, gradient = jax.lax.while_loop(too_long, shorter, first)
        place = jnp.mod(state.count, HISTORY)
        return _State(
            state.at + size * towards,
            value,
            gradient,
            state.steps.at[place].set(size * towards),
            state.changes.at[place].set(gradient - state.gradient),
            state.count + 1,
            ~enough(size, value),
        )

    def goes_on(state: _State) -> jax.Array:
        steep = jnp.max(jnp.abs(state.gradient)) > tolerance
        return steep & ~state.stuck & (state.count < most)

    memory = jnp.zeros((HISTORY, len(start)), jnp.float32)
    value, gradient = value_and_gradient(start)
    first = _State(start, value, gradient, memory, memory, jnp.int32(0), jnp.bool_(False))
    found = jax.lax.while_loop(goes_on, step, first)
    return found.at, found.count


def cross_entropy(
    kernel: jax.Array, bias: jax.Array, examples: Examples
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Mean cross-entropy of a linear head, and its gradients, in blocks of rows."""

    def part(real, rows, truth, own):
        logp = jax.nn.log_softmax(rows @ kernel + bias)
        picked = jnp.take_along_axis(logp, truth[:, None], axis=1)[:, 0]
        weight = real * own
        apart = (jnp.exp(logp) - jax.nn.one_hot(truth, len(bias))) * weight[:, None]
        return -weight @ picked, (rows.T @ apart, jnp.sum(apart, axis=0))

    count = jnp.sum(examples.weight)
    return jax.tree.map(lambda total: total / count, sum_blocks(part, examples))


def fit_logistic(
    examples: Examples, classes: int, strength: float, to_target: DomainMap, cov: jax.Array
) -> tuple[PyTree, jax.Array]:
    """Logistic regression on mapped source features, as a head for target features.

    Args:
      examples: of the source.
      classes: K; one without examples keeps about half an example's share.
      strength: scikit-learn's C, on features of variance 1.
      to_target: the source's map.
      cov: the source's covariance [P, P].

    Returns:
      (linear head, number of steps).
    """
    x, labels, weight = examples
    count = jnp.sum(weight)
    ridge = 1 / (strength * count)
    seen = to_target.matrix.T @ cov @ to_target.matrix  # the mapped source's covariance
    # Over N, as scikit-learn's scaler; a feature without variance gets no weight.
    spread = jnp.sqrt(jnp.diag(seen) * (jnp.maximum(count - 1, 1) / count))
    per_spread = jnp.where(spread > 1e-6, 1 / jnp.maximum(spread, 1e-6), 0)
    values, vectors = jnp.linalg.eigh(seen * per_spread[:, None] * per_spread)
    shares = jnp.zeros(classes).at[labels].add(weight) / count
    own, mixed = jnp.linalg.eigh(jnp.diag(shares) - shares[:, None] * shares)
    scale = jax.lax.rsqrt(jnp.maximum(values, 0)[:, None] * jnp.maximum(own, 0) + ridge)
    free = own > 1e-6 * own[-1]  # a constant added to all biases changes nothing
    bias_scale = jnp.where(free, jax.lax.rsqrt(jnp.where(free, own, 1)), 0)
    start = jnp.log(jnp.maximum(shares, 0.5 / count))
    whole = to_target.matrix @ (per_spread[:, None] * vectors)  # weights of `vectors` -> of x

    def layer(z):
        weights, biases = (z[:-1] * scale) @ mixed.T, start + mixed @ (z[-1] * bias_scale)
        return whole @ weights, biases

    def value_and_gradient(flat):
        z = flat.reshape(-1, classes)
        kernel, bias = layer(z)
        moved = bias - to_target.shift @ kernel
        value, (to_kernel, to_bias) = cross_entropy(kernel, moved, examples)
        to_kernel = to_kernel - to_target.shift[:, None] * to_bias
        penalty = z[:-1] * scale
        to_z = ((whole.T @ to_kernel) @ mixed + ridge * penalty) * scale
        gradient = jnp.concatenate([to_z, ((to_bias @ mixed) * bias_scale)[None]])
        return value + ridge / 2 * jnp.sum(penalty**2), gradient.reshape(-1)

    zeros = jnp.zeros((x.shape[1] + 1) * classes, jnp.float32)
    found, steps = minimise(value_and_gradient, zeros)
    z = found.reshape(-1, classes)
    weights, bias = (z[:-1] * scale) @ mixed.T, start + mixed @ (z[-1] * bias_scale)
    kernel = per_spread[:, None] * (vectors @ weights)
    return linear_head(kernel, bias - to_target.mean @ kernel), steps


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    match: str = "coral",
    strength: float = 0.02,
    tau: float = 0.5,
    shrink: float = 1e-2,
) -> ClosedForm:
    """Logistic regression on aligned features: variants "logistic", and "debiased" by `tau`.

    `strength` is scikit-learn's C, `match` one of `clipjax.adapt.moments.MATCHES`, `shrink`
    regularises CORAL's covariances. What is fitted is a head for the target.

    ValueError: an unknown map, a strength that is not positive; in the fit, missing or empty parts.
    """
    check_match(match)
    check_tau(tau)
    if strength <= 0:
        raise ValueError(f"strength is {strength}; give a positive one, as scikit-learn's C.")

    @jax.jit
    def solve(x, labels, target):
        source = moments(x)
        to_target = domain_map(source, moments(target), match, shrink)
        examples = every(x, labels)
        head, _ = fit_logistic(examples, len(classes.names), strength, to_target, source[1])
        return {"logistic": head, "debiased": debiased(head, target, tau)}

    def fit(data, texts):
        found = checked(data, len(texts.names), "source", "target")
        return in_order(solve(*found["source"].values(), found["target"]["inputs"]), "logistic")

    return ClosedForm(fit, predict_linear(classes), reads=("source", "target"), texts=False)
