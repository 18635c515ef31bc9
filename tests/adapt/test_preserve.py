"""Penalties on an encoder's geometry: against NumPy, finite differences, padding and every loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from clipjax.adapt.losses import weigh
from clipjax.adapt.method import Classes
from clipjax.adapt.preserve import KINDS, OF, embedding_distance, matrix_distance, preserved
from clipjax.model.backbone import make_backbone, make_head
from clipjax.model.clip import CLIP
from clipjax.model.heads import Heads
from clipjax.study.methods import find_module
from tests.conftest import random_params, small_config

RNG = np.random.default_rng(0)
N, M, P = 6, 3, 5
REAL = np.array([True, True, False, True, True, False])
WEIGHT = jnp.asarray(REAL * 1.5, jnp.float32)


def unit(count):
    x = RNG.normal(size=(count, P))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


NOW, BEFORE, TEXT, OLD_TEXT = unit(N), unit(N), unit(M), unit(M)


def losses(now, text, weight=None, before=BEFORE):
    """Every penalty there is, by name."""
    found = {"embedding": embedding_distance(now, before, weight)}
    for kind in KINDS:
        matrix = functools.partial(matrix_distance, now, before, kind=kind, scale=3.0)
        found[f"within {kind}"] = matrix(weight=weight)
        found[f"across {kind}"] = matrix(columns=(text, OLD_TEXT), weight=weight)
    return found


NAMES = ("embedding", *(f"{where} {kind}" for kind in KINDS for where in ("within", "across")))


def softmax(x):
    shares = np.exp(x - x.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["all", "masked"])
def test_values_are_numpys(weight):
    real = np.ones(N, bool) if weight is None else REAL
    now, before = NOW[real].astype(np.float64), BEFORE[real].astype(np.float64)
    off = ~np.eye(len(now), dtype=bool)
    drop = lambda x: x[off].reshape(len(now), -1)
    of = {
        "within": (drop(now @ now.T), drop(before @ before.T)),
        "across": (now @ TEXT.T, before @ OLD_TEXT.T),
    }
    want = {"embedding": np.mean(2 - 2 * np.sum(now * before, axis=1))}  # twice 1 - cosine
    for name, (new, old) in of.items():
        want[f"{name} squared"] = np.mean((new - old) ** 2)
        p, q = softmax(3 * new), softmax(3 * old)
        want[f"{name} kl"] = np.mean(np.sum(q * np.log(q / p), axis=1))
    found = jax.jit(losses)(NOW, TEXT, weight)
    assert found.keys() == want.keys() == set(NAMES)
    for name, value in found.items():
        assert float(value) == pytest.approx(want[name], rel=1e-5), name


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_differences(name):
    value = jax.jit(lambda now, text: losses(now, text, WEIGHT)[name])
    check_grads(value, (NOW, TEXT), order=1, modes=("rev",), atol=2e-3, rtol=2e-2, eps=1e-2)
    free = jax.grad(lambda before: losses(NOW, TEXT, WEIGHT, before)[name])(jnp.asarray(BEFORE))
    assert not np.any(free)  # what was, is not learned


def test_padding_reaches_neither_values_nor_gradients():
    both = jax.jit(
        jax.value_and_grad(lambda now, before: sum(losses(now, TEXT, WEIGHT, before).values()))
    )
    blank = lambda x, garbage: jnp.where(REAL[:, None], x, garbage)
    want = both(blank(NOW, 0.0), blank(BEFORE, 0.0))
    for garbage in (np.nan, np.inf, 3e38):
        found = both(blank(NOW, garbage), blank(BEFORE, garbage))
        jax.tree.map(np.testing.assert_array_equal, found, want)
    alone = jnp.asarray(np.arange(N) == 0, jnp.float32) * N  # no others to compare with
    value, grad = jax.value_and_grad(lambda x: losses(x, TEXT, alone)["within kl"])(NOW)
    assert value == 0 and not np.any(grad)


@pytest.mark.parametrize("name", NAMES)
def test_what_has_not_moved_costs_nothing_and_is_not_pulled(name):
    same = functools.partial(losses, before=NOW)
    value, grad = jax.value_and_grad(lambda now: same(now, OLD_TEXT, WEIGHT)[name])(
        jnp.asarray(NOW)
    )
    assert abs(float(value)) < 1e-7
    assert float(jnp.abs(grad).max()) < 1e-6


# ------------------------------------------------------------------------ added to losses

CONFIG = small_config(vision={"num_hidden_layers": 1}, text={"num_hidden_layers": 1})
PARAMS = random_params(CONFIG)
TOKENS = RNG.integers(1, 20, (3, 2, 6)).astype(np.int32)
HEADS = {"adapter": (4,), "classifier": ()}
TRAINED = {
    "finetune": {"text": True},
    "flyp": {"text": True},
    "coral": HEADS,
    "mmd": HEADS,
    "bnm": HEADS,
    "mcc": HEADS,
    "afn": HEADS,
    "fixmatch": HEADS,
    "cmkd": {},
    "shot": {},
    "distill": {},
    "dann": HEADS | {"discriminator": (4,)},
    "cdan": HEADS | {"discriminator": (4,)},
}
BACKBONE = make_backbone(CLIP(CONFIG), lambda pixels, rng: pixels / 255.0)


@functools.cache
def classes():
    text = jax.jit(lambda tokens: BACKBONE.encode["text"]({"clip": PARAMS}, tokens))
    weights = np.asarray(text(TOKENS.reshape(6, 6))).reshape(3, 2, -1).mean(axis=1)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return Classes(("a", "b", "c"), TOKENS, weights, float(BACKBONE.scale({"clip": PARAMS})))


@functools.cache
def batch():
    """Four images a domain, the last one padding, and what the encoder gives as it came."""
    encode = jax.jit(lambda x: BACKBONE.encode["image"]({"clip": PARAMS}, x))
    found = {}
    for name in ("source", "target"):
        pixels = RNG.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
        before = encode(pixels)
        zero_shot = classes().scale * before @ classes().weights.T
        mask = np.arange(4) < 3
        found[name] = {"inputs": pixels, "embedding": before, "zero_shot": zero_shot, "mask": mask}
    found["source"]["label"] = np.array([0, 1, 2, 0], np.int32)
    return found


def made(loss):
    heads = Heads(num_classes=3, **TRAINED[loss])
    head = make_head(heads, BACKBONE, classes())
    return find_module("", loss).make_method(BACKBONE, classes(), head=head)


@pytest.mark.parametrize("loss", TRAINED)
def test_any_loss_gets_the_penalties_beside_its_own(loss):
    plain = made(loss)
    towers = tuple(t for t in ("image", "text") if t in plain.towers)
    factors = {"embedding": 2.0, "similarity": 3.0}
    held = preserved(plain, BACKBONE, classes(), towers, **factors)
    assert "embedding" in held.reads and not held.per_example
    params = {"clip": PARAMS} | jax.jit(plain.init)(jax.random.key(0))
    moved = params | {"clip": jax.tree.map(lambda x: 1.2 * x + 0.05, PARAMS)}
    moved["clip"]["logit_scale"] = PARAMS["logit_scale"]
    with_before = batch()
    bare = {
        name: {key: x for key, x in part.items() if key != "embedding"}
        for name, part in with_before.items()
    }
    run = lambda method, given, p: method.loss(p, weigh(given), jax.random.key(1), 0.5)
    # One program: what both compute alike is compiled once.
    both = jax.jit(lambda p: (run(held, with_before, p), run(plain, bare, p)))
    for at, (least, most) in {"start": (-1e-6, 1e-6), "moved": (1e-3, 10.0)}.items():
        there = params if at == "start" else moved
        (value, metrics), (alone, before) = both(there)
        added = sum(factors[k] * metrics[f"{k}_moved"] for k in factors)
        assert least < float(metrics["embedding_moved"]) < most, at
        assert least < float(metrics["similarity_moved"]) < most, at
        assert float(value) == pytest.approx(float(alone + added), rel=1e-5)
        assert before.keys() <= metrics.keys()


@pytest.mark.parametrize("of", OF)
@pytest.mark.parametrize("towers", [("image",), ("text",), ("image", "text")])
def test_the_penalty_reaches_the_towers_that_move(of, towers):
    method = made("finetune")._replace(loss=lambda params, batch, rng, progress: (0.0, {}))
    held = preserved(method, BACKBONE, classes(), towers, similarity=1.0, of=of, kind="kl")
    moved, parts = jax.tree.map(lambda x: 1.2 * x + 0.05, PARAMS), batch()
    loss = lambda clip, shift: held.loss({"clip": clip}, shifted(shift), None, 0.5)[0]

    def shifted(shift):  # images as they came, which get no gradient
        return {
            name: part | {"embedding": part["embedding"] + shift} for name, part in parts.items()
        }

    grads, shift = jax.jit(jax.grad(loss, (0, 1)))(moved, 0.0)
    size = lambda *parts: sum(
        float(jnp.abs(x).sum()) for x in jax.tree.leaves([grads[p] for p in parts])
    )
    assert (size("vision", "visual_projection") > 0) == ("image" in towers)
    assert (size("text", "text_projection") > 0) == ("text" in towers)
    assert size("logit_scale") == 0 and shift == 0


def test_low_ranks_are_held_as_they_are_merged():
    plain = find_module("", "lora").make_method(BACKBONE, classes(), rank=2)
    alone = plain._replace(loss=lambda params, batch, rng, progress: (0.0, {}))
    held = preserved(alone, BACKBONE, classes(), ("image", "text"), embedding=1.0)
    parts, params = batch(), {"clip": PARAMS} | jax.jit(plain.init)(jax.random.key(0))
    loss = jax.jit(jax.value_and_grad(lambda lora: held.loss(params | lora, parts, None, 0.5)[0]))
    value, grads = loss({"lora": params["lora"]})
    assert abs(float(value)) < 1e-6
    moved = jax.tree.map(lambda x: x + 0.3, {"lora": params["lora"]})
    value, grads = loss(moved)
    assert float(value) > 1e-3
    for tower in ("vision", "text"):
        assert any(np.any(x) for x in jax.tree.leaves(grads["lora"][tower])), tower


def test_what_cannot_be_meant_is_refused():
    method = made("finetune")
    hold = functools.partial(preserved, method, BACKBONE, classes(), ("image",))
    for wrong in ({"embedding": -1.0}, {"similarity": -1.0}, {"of": "beside"}, {"kind": "cosine"}):
        with pytest.raises(ValueError, match="below 0|unknown"):
            hold(**wrong)
    with pytest.raises(ValueError, match="unknown kind"):
        matrix_distance(NOW, BEFORE, kind="cosine")
    assert preserved(method, BACKBONE, classes(), (), embedding=1.0).loss is method.loss
