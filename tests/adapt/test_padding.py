"""Padding never counts, whatever it holds: values and gradients against PyTorch and clean rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import DannModel
from clipjax.adapt import afn, cdan, finetune, fixmatch, mcd
from clipjax.adapt.dann import dann_loss, gradient_ratio
from clipjax.adapt.losses import (
    diversity_hinge,
    domain_cross_entropy,
    real_rows,
    smoothed_cross_entropy,
    weigh,
    weighted_mean,
)
from clipjax.evaluate.metrics import accuracy

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install -e ".[parity]"')

RNG = np.random.default_rng(3)
N, K = 6, 4
MASK = np.array([True, False, True, True, False, True])
WEIGHT = jnp.asarray(MASK * 1.5, jnp.float32)  # 6 rows, of which 4 count
LOGITS = RNG.normal(size=(N, K)).astype(np.float32)
LABELS = RNG.integers(K, size=N).astype(np.int32)
GARBAGE = (np.nan, np.inf, -np.inf, 3e38)


def spoiled(values, garbage):
    """Rows that do not count hold garbage; of an ensemble [M, N, K] too."""
    mask = MASK.reshape(-1, *[1] * (values.ndim - (2 if values.ndim == 3 else 1)))
    return jnp.asarray(np.where(mask, values, values.dtype.type(garbage)))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs_with_ignore_index(smoothing):
    theirs = torch.tensor(LOGITS, requires_grad=True)
    ignoring = torch.tensor(np.where(MASK, LABELS, -100)).long()
    loss = torch.nn.functional.cross_entropy(theirs, ignoring, label_smoothing=smoothing)
    loss.backward()
    ours = jax.jit(
        jax.value_and_grad(lambda x, y, weight: smoothed_cross_entropy(x, y, smoothing, weight))
    )
    for garbage in GARBAGE:
        for label in (-100, -1, K, 2**31 - 1):
            labels = np.where(MASK, LABELS, label).astype(np.int32)
            value, gradient = ours(spoiled(LOGITS, garbage), labels, WEIGHT)
            assert float(value) == pytest.approx(loss.item(), rel=1e-6)
            np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-7)


MEMBERS = 0.2 * RNG.normal(size=(3, N, K)).astype(np.float32)


@pytest.mark.parametrize(
    "loss, values",
    [
        (lambda x: weighted_mean(x, WEIGHT), LOGITS[:, 0]),
        (lambda x: diversity_hinge(x, 0.5, WEIGHT), MEMBERS),
        (lambda x: smoothed_cross_entropy(x, jnp.asarray(LABELS), 0.1, WEIGHT), MEMBERS),
        (lambda x: domain_cross_entropy([x, x], [WEIGHT] * 2)[0], LOGITS),
        (lambda x: domain_cross_entropy([x, x], [WEIGHT] * 2)[0], LOGITS[:, :1]),
        (lambda x: accuracy(x, jnp.asarray(LABELS), jnp.asarray(MASK)), LOGITS),
    ],
    ids=["mean", "diversity", "ensemble", "domains", "one logit", "accuracy"],
)
def test_values_and_gradients_are_those_of_rows_of_zeros(loss, values):
    differentiate = jax.jit(jax.value_and_grad(loss))
    want = differentiate(spoiled(values, 0.0))
    assert np.isfinite(want[0])
    for garbage in GARBAGE:
        jax.tree.map(np.testing.assert_array_equal, differentiate(spoiled(values, garbage)), want)


def normed(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # of zeros it would be NaN


MODEL = DannModel(
    lambda p, x, rng: normed(jnp.tanh(normed(x) @ p["body"])),
    lambda p, f: jnp.einsum("nf,mfk->mnk", f, p["head"]),
    lambda p, f: f @ p["domain"],
)
SHAPES = {"body": (5, 3), "head": (2, 3, K), "domain": (3, 2), "joint": (3 * K, 2)}
PARAMS = {name: jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
ROWS = RNG.normal(size=(2, N, 5)).astype(np.float32)
METHODS = {
    "dann": lambda p, b, **more: dann_loss(MODEL, p, b, 0.7, label_smoothing=0.1, **more),
    "joined": lambda p, b, **more: dann_loss(MODEL, p, b, 0.7, joined=True, **more),
    "penalty": lambda p, b, **more: dann_loss(MODEL, p, b, 0.7, penalty=0.5, **more),
    "afn": lambda p, b, axis_name=None: afn.make_loss(MODEL)(p, weigh(b, axis_name), None, 0.0),
    "mcd": lambda p, b, axis_name=None: mcd.make_loss(MODEL)(p, weigh(b, axis_name), None, 0.0),
    "cdan": lambda p, b, axis_name=None: cdan.make_loss(
        MODEL._replace(discriminate=lambda p, f: f @ p["joint"]), entropy=False
    )(p, weigh(b, axis_name), None, 0.5),
    "fixmatch": lambda p, b, axis_name=None: fixmatch.make_loss(
        MODEL._replace(classify=lambda p, f: f @ p["head"][0]), threshold=0.5
    )(p, weigh(b, axis_name), None, 0.0),
    "no domains": lambda p, b, **more: dann_loss(MODEL, p, b, 0.7, domain_weight=0, **more),
    "finetune": lambda p, b, axis_name=None: finetune.make_loss(
        MODEL, label_smoothing=0.1, diversity_weight=1.0
    )(p, weigh(b, axis_name), None, 0.0),
}


def padded(garbage, label=-100):
    """A batch of both domains, four rows of each of which count."""
    mask = jnp.asarray(MASK)
    source = {"inputs": spoiled(ROWS[0], garbage), "mask": mask}
    source["label"] = jnp.asarray(np.where(MASK, LABELS, label).astype(np.int32))
    target = {"inputs": spoiled(ROWS[1], garbage), "zero_shot": spoiled(LOGITS, garbage)}
    return {"source": source, "target": target | {"mask": mask}}


def real():
    """The same without any padding."""
    source = {"inputs": jnp.asarray(ROWS[0][MASK]), "label": jnp.asarray(LABELS[MASK])}
    target = {"inputs": jnp.asarray(ROWS[1][MASK]), "zero_shot": jnp.asarray(LOGITS[MASK])}
    return {"source": source, "target": target}


def close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), one, other)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_no_garbage_reaches_parameters_through_the_networks(method):
    """Whole, and as the shares of three parts in a scan, one of which holds a single real row."""

    def differentiate(batch, **more):
        loss = lambda p: METHODS[method](p, batch, **more)
        return jax.value_and_grad(loss, has_aux=True)(PARAMS)

    def scanned(batch):
        parts = jax.tree.map(lambda x: x.reshape(3, 2, *x.shape[1:]), batch)
        shares = jax.vmap(lambda part: differentiate(part, axis_name="i"), axis_name="i")
        return jax.lax.scan(lambda _, __: (None, shares(parts)), None, None, 2)[1]

    both = jax.jit(lambda batch: (differentiate(batch), scanned(batch)))
    want = jax.jit(differentiate)(real())
    for garbage, label in ((np.nan, -100), (3e38, K)):
        whole, shares = both(padded(garbage, label))
        close(whole, want)
        close(jax.tree.map(lambda x: x[1].mean(axis=0), shares), want)


@pytest.mark.slow
def test_the_ratio_of_gradients_sees_real_rows_alone():
    ratio = jax.jit(lambda batch: gradient_ratio(MODEL, PARAMS, batch, 0.5))
    assert float(ratio(real())) > 0
    close(ratio(padded(np.nan)), ratio(real()))


@pytest.mark.slow
def test_a_batch_of_padding_alone_is_a_loss_of_zero():
    batch = jax.tree.map(lambda x: x, padded(np.nan))
    for part in batch.values():
        part["mask"] = jnp.zeros(N, bool)
        part["inputs"] = jnp.full((N, 5), jnp.nan)
    differentiate = jax.jit(jax.value_and_grad(METHODS["dann"], has_aux=True))
    (value, metrics), gradient = differentiate(PARAMS, batch)
    assert float(value) == float(metrics["source_accuracy"]) == 0.0
    assert all(not np.any(x) for x in jax.tree.leaves(gradient))


def test_real_rows_leaves_those_that_count_to_the_bit():
    inputs = {"a": jnp.asarray(ROWS[0]), "b": jnp.arange(N), "c": jnp.float32(jnp.nan)}
    kept = real_rows(inputs, jnp.asarray(MASK))
    np.testing.assert_array_equal(kept["a"][MASK], ROWS[0][MASK])
    assert kept["b"].tolist() == [0, 1, 2, 3, 1, 5] and kept["b"].dtype == inputs["b"].dtype
