"""CDAN, Deep CORAL, MMD, JAN, MCC, AFN, BNM against NumPy written from the papers.

References take the parameters twice: those that vary, and those of what has no gradient (weights,
medians, conditioning), so that their finite differences are the gradients that are meant.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import DannModel
from clipjax.adapt import afn, bnm, cdan, coral, mcc, mmd
from clipjax.adapt.losses import weigh

N, P, F, K, LAM = 6, 5, 4, 3, 0.7
RNG = np.random.default_rng(0)
INPUTS = {"source": RNG.normal(size=(N, P)), "target": RNG.normal(size=(N, P)) + 0.5}
LABELS = RNG.integers(K, size=N)
MASK = np.array([True, False, True, True, True, False])
PARAMS = {"body": RNG.normal(size=(P, F)), "head": 2 * RNG.normal(size=(F, K))}
PARAMS["domain"] = RNG.normal(size=(F * K, 2))
MODEL = DannModel(
    lambda p, x, rng: jnp.tanh(x @ p["body"]),
    lambda p, f: f @ p["head"],
    lambda p, f: f @ p["domain"],
)


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def seen(p, part):
    """Features and class probabilities of the real rows."""
    f = np.tanh(INPUTS[part][MASK] @ p["body"])
    return f, softmax(f @ p["head"])


def sure(g):
    """1 + exp(-H), with mean 1."""
    found = 1 + np.exp(np.sum(g * np.log(g), axis=1))
    return found / found.mean()


def class_value(p):
    _, g = seen(p, "source")
    return -np.mean(np.log(g[np.arange(MASK.sum()), LABELS[MASK]]))


def np_cdan(p, base, entropy=True):
    losses = []
    for label, part in enumerate(("source", "target")):
        f, (_, g) = seen(p, part)[0], seen(base, part)
        joint = np.stack([np.outer(a, b).ravel() for a, b in zip(f, g, strict=True)])
        value = -np.log(softmax(joint @ p["domain"])[:, label])
        losses.append(np.mean(value * (sure(g) if entropy else 1)))
    return np.mean(losses)


def np_coral(p, base, means=False):
    (s, _), (t, _) = seen(p, "source"), seen(p, "target")
    apart = np.sum((np.cov(s.T) - np.cov(t.T)) ** 2)
    if means:
        return np.sum((s.mean(axis=0) - t.mean(axis=0)) ** 2) / F + apart / F**2
    return apart / (4 * F**2)


def np_mmd(p, base, joint=False):
    def rows(params):
        both = [seen(params, part) for part in ("source", "target")]
        return [np.concatenate(each) for each in zip(*both, strict=True)]

    (f, g), (fixed, _), n = rows(p), rows(base), MASK.sum()
    apart = lambda x, i, j: np.sum((x[i] - x[j]) ** 2)
    median = np.median([apart(fixed, i, j) for i in range(2 * n) for j in range(2 * n) if i != j])

    def kernel(i, j):
        k = np.mean(
            [np.exp(-apart(f, i, j) / (2 * a * median)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2)]
        )
        return k * (np.exp(-apart(g, i, j) / 1.68) if joint else 1)

    own, other = range(n), range(n, 2 * n)
    within = lambda rows: np.mean([kernel(i, j) for i in rows for j in rows if i != j])
    return within(own) + within(other) - 2 * np.mean([kernel(i, j) for i in own for j in other])


def np_mcc(p, base):
    z, fixed = (seen(each, "target")[0] @ each["head"] for each in (p, base))
    y, w = softmax(z / 2.5), sure(softmax(fixed / 2.5))
    c = np.array([[np.sum(w * y[:, i] * y[:, j]) for j in range(K)] for i in range(K)])
    c = c / c.sum(axis=1, keepdims=True)
    return sum(c[i, j] for i in range(K) for j in range(K) if i != j) / K


def np_afn(p, base):
    length = lambda q, part: np.linalg.norm(seen(q, part)[0], axis=1)
    return sum(
        np.mean((length(p, part) - length(base, part) - 1) ** 2) for part in ("source", "target")
    )


def np_bnm(p, base):
    return -np.linalg.norm(seen(p, "target")[1], "nuc") / MASK.sum()


# Name -> (loss, reference of its term, factor on the term).
LOSSES = {
    "cdan": (cdan.make_loss(MODEL, schedule="constant", lam_max=LAM, entropy=False),
             lambda p, base: np_cdan(p, base, entropy=False), 1.0),
    "cdan+e": (cdan.make_loss(MODEL, schedule="constant", lam_max=LAM), np_cdan, 1.0),
    "coral": (coral.make_loss(MODEL), np_coral, 1.0),
    "domainbed": (coral.make_loss(MODEL, means=True, weight=0.5),
                  lambda p, base: np_coral(p, base, means=True), 0.5),
    "mmd": (mmd.make_loss(MODEL), np_mmd, 1.0),
    "jan": (mmd.make_loss(MODEL, joint=True), lambda p, base: np_mmd(p, base, joint=True), 1.0),
    "mcc": (mcc.make_loss(MODEL), np_mcc, 1.0),
    "afn": (afn.make_loss(MODEL), np_afn, 0.05),
    "bnm": (bnm.make_loss(MODEL, weight=0.3), np_bnm, 0.3),
}  # fmt: skip
JOINED = {"cdan+e": cdan, "coral": coral, "mmd": mmd, "mcc": mcc, "afn": afn, "bnm": bnm}


def batch_of(garbage=None):
    """Both domains: real rows alone, or among others that hold garbage."""
    batch = {}
    for part, x in INPUTS.items():
        if garbage is None:
            batch[part] = {"inputs": jnp.asarray(x[MASK], jnp.float32)}
            labels = LABELS[MASK]
        else:
            rows = np.where(MASK[:, None], x, garbage)
            batch[part] = {"inputs": jnp.asarray(rows, jnp.float32), "mask": jnp.asarray(MASK)}
            labels = np.where(MASK, LABELS, -100)
        if part == "source":
            batch[part]["label"] = jnp.asarray(labels, jnp.int32)
    return batch


def in_float32(params):
    return {key: jnp.asarray(value, jnp.float32) for key, value in params.items()}


@functools.cache
def compiled(loss):
    """(params, batch) -> ((loss, metrics), gradients), compiled once for each form of a batch."""
    one = lambda p, batch: loss(p, batch, None, jnp.float32(0.5))
    return jax.jit(jax.value_and_grad(one, has_aux=True))


def differentiate(loss, batch, params=PARAMS):
    return compiled(loss)(in_float32(params), batch)


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_those_of_the_papers(name):
    loss, term, weight = LOSSES[name]
    (value, metrics), grads = differentiate(loss, batch_of())
    wanted = class_value(PARAMS) + weight * term(PARAMS, PARAMS)
    assert float(value) == pytest.approx(wanted, rel=2e-5, abs=1e-6)
    assert float(metrics["class_loss"]) == pytest.approx(class_value(PARAMS), rel=1e-5)
    for key in PARAMS:  # along a direction in each; the reversal is in front of the domain head
        turn = -LAM if name.startswith("cdan") and key != "domain" else 1.0
        toward = RNG.normal(size=PARAMS[key].shape)
        at = lambda h: PARAMS | {key: PARAMS[key] + h * toward}  # noqa: B023
        slope = lambda f: (f(at(1e-5)) - f(at(-1e-5))) / 2e-5  # noqa: B023
        wanted = slope(class_value) + turn * weight * slope(lambda p: term(p, PARAMS))
        found = float(np.sum(np.asarray(grads[key], np.float64) * toward))
        assert found == pytest.approx(wanted, rel=2e-3, abs=2e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_padding_does_not_count_whatever_it_holds(name):
    loss = LOSSES[name][0]
    want = differentiate(loss, batch_of())
    for garbage in (np.nan, np.inf, 3e38):
        found = differentiate(loss, weigh(batch_of(garbage)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-5, 1e-6), found, want)


@pytest.mark.slow
@pytest.mark.parametrize("name", JOINED)
def test_domains_give_the_same_together_and_apart(name):
    batch = weigh(batch_of(np.nan))
    one, two = (
        differentiate(JOINED[name].make_loss(MODEL, joined=joined), batch) for joined in (0, 1)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-5, 1e-6), one, two)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_points_without_a_slope_have_finite_gradients(name):
    """All features 0, all answers alike, one image a domain."""
    zeros = {"body": jnp.zeros((P, F)), "head": jnp.zeros((F, K)), "domain": jnp.zeros((F * K, 2))}
    batch = jax.tree.map(lambda x: x[:1], batch_of())
    for params in (zeros, PARAMS):
        for given in (batch, batch_of()):
            (value, _), grads = differentiate(LOSSES[name][0], given, params)
            assert np.isfinite(value) and all(np.isfinite(x).all() for x in grads.values())


def test_the_median_of_distances_is_numpys():
    find = jax.jit(mmd.median)
    for count in (1, 2, 5, 8) * 8:  # values that repeat, odd and even numbers of them
        values = RNG.choice([0.0, 0.5, 3.5, *RNG.random(4)], size=9).astype(np.float32)
        real = RNG.permutation(9) < count
        assert float(find(values, real)) == np.median(values[real])


def test_the_nuclear_norm_has_a_gradient_where_singular_values_are_equal():
    for matrix in (np.eye(4, 3), np.zeros((4, 3)), RNG.normal(size=(3, 5))):
        gradient = np.asarray(jax.grad(bnm.nuclear_norm)(jnp.asarray(matrix, jnp.float32)))
        u, values, v = np.linalg.svd(matrix, full_matrices=False)
        np.testing.assert_allclose(gradient, (u * (values > 1e-6)) @ v, atol=1e-5)


def test_the_randomised_map_estimates_products_of_both():
    """Inner products of randomised maps are, on average, those of the full ones (equation 7)."""
    f, g = (jnp.asarray(RNG.random((2, n)), jnp.float32) for n in (F, K))
    maps = {"features": (F, 40000), "shares": (K, 40000)}
    maps = {key: jnp.asarray(RNG.normal(size=shape), jnp.float32) for key, shape in maps.items()}
    full, random = cdan.multilinear(f, g), cdan.multilinear(f, g, maps)
    np.testing.assert_allclose(random @ random.T, full @ full.T, rtol=0.1)


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (coral, {"weight": -1.0}, "weight is -1.0; it must not be negative"),
        (coral, {"on": "pixels"}, "on is 'pixels'; give 'features' or 'logits'"),
        (mmd, {"widths": (1.0, 0.0)}, "widths are .*; give numbers above 0"),
        (mcc, {"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        (cdan, {"domain_weight": -1.0}, "domain_weight is -1.0; it must not be negative"),
    ],
)
def test_options_that_make_no_loss_are_refused(module, options, words):
    with pytest.raises(ValueError, match=words):
        module.make_loss(MODEL, **options)


def test_coral_has_the_reference_values_of_samples_with_known_covariances():
    """Covariances [[2, 1], [1, 3]] and diag(1, 2), unbiased; the target lies 1 to the right."""
    source = np.array([(1.7320508, 0.8660254), (0, 1.9364917)])
    target = np.array([(1.2247449, 0), (0, 1.7320508)])
    source, target = np.vstack([source, -source]), np.vstack([target, -target]) + [1, 0]
    moments = lambda x: coral.batch_moments(jnp.asarray(x, jnp.float32), jnp.ones(len(x)))
    np.testing.assert_allclose(moments(source)[1], [[2, 1], [1, 3]], atol=1e-6)
    np.testing.assert_allclose(moments(target)[1], [[1, 0], [0, 2]], atol=1e-6)
    loss = jax.jit(coral.coral_loss, static_argnames="means")
    assert float(loss(source, target)) == pytest.approx(0.25, abs=1e-6)  # means do not count
    assert float(loss(source, target, means=True)) == pytest.approx(1.5, abs=1e-6)
    padded = lambda x: np.vstack([x, np.full((3, 2), np.nan)])
    weights = tuple(jnp.asarray([1.0] * 4 + [0.0] * 3) for _ in range(2))
    for means, value in ((False, 0.25), (True, 1.5)):  # divided by 4 - 1, not by 7 - 1
        found = loss(padded(source), padded(target), weights, means=means)
        assert float(found) == pytest.approx(value, abs=1e-6)
