"""Decoders and Domino: what the domain embedding can move, and what it cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt.domain import controlled, domain_embedding, entropy, readout
from clipjax.model.decoders import DECODERS, DomainNorm, MaskDecoder, resize_map, side_by_side

RNG = np.random.default_rng(0)
MAPS = [jnp.array(RNG.normal(size=(2, 4, 6, 8)), jnp.float32) for _ in range(3)]
TEXTS, DOMAIN = (jnp.array(RNG.normal(size=(n, 8)), jnp.float32) for n in (5, 2))


def arguments(kind):
    return {"texts": TEXTS} if kind in ("mask", "aspp") else {}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("linear", (4, 6)),
        ("mlp", (4, 6)),
        ("pup", (16, 24)),
        ("fpn", (8, 12)),
        ("aspp", (4, 6)),
        ("mask", (4, 6)),
    ],
)
def test_at_the_first_step_a_domain_changes_no_bit_and_later_it_does(kind, shape):
    decoder, more = DECODERS[kind](classes=5, width=8), arguments(kind)
    init = jax.jit(decoder.init)
    plain = init(jax.random.key(0), MAPS, **more)
    modulated = init(jax.random.key(0), MAPS, DOMAIN, **more)
    # What both have is drawn alike, by name.
    apply = jax.jit(decoder.apply)
    assert apply(plain, MAPS, **more).shape == (2, *shape, 5)
    first = [apply(modulated, MAPS, w, **more) for w in (DOMAIN, -3 * DOMAIN)]
    assert np.array_equal(*first)
    assert np.array_equal(first[0], apply(plain, MAPS, **more))

    def loss(params):
        return (apply(params, MAPS, DOMAIN, **more)[..., 0] ** 2).sum()

    slopes = jax.jit(jax.grad(loss))(modulated)
    after = jax.tree.map(lambda p, g: p - 0.1 * jnp.sign(g), modulated, slopes)
    seen = [apply(after, MAPS, w, **more) for w in (DOMAIN, -3 * DOMAIN)]
    assert float(jnp.abs(seen[0] - seen[1]).max()) > 1e-3


@pytest.mark.parametrize("stats", ["instance", "group", "layer"])
def test_statistics_are_what_numpy_computes(stats):
    x = RNG.normal(2, 3, (2, 3, 4, 8)).astype(np.float32)
    norm = DomainNorm(stats, groups=4)
    seen = norm.apply(norm.init(jax.random.key(0), x), x)
    cut = x.reshape(2, 3, 4, 4, 2) if stats == "group" else x
    axes = {"instance": (1, 2), "group": (1, 2, 4), "layer": (3,)}[stats]
    wanted = (cut - cut.mean(axes, keepdims=True)) / np.sqrt(cut.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(seen, wanted.reshape(x.shape), atol=1e-5)


def test_a_mask_decoder_is_moved_by_a_shift_of_its_prompts_and_a_linear_classifier_is_not():
    decoder, given = MaskDecoder(classes=5), {"texts": TEXTS}
    params = decoder.init(jax.random.key(0), MAPS, texts=TEXTS)
    answer = jax.jit(lambda w: decoder.apply(params, MAPS, prompt=w, **given))
    plain = decoder.apply(params, MAPS, **given)
    assert float(jnp.abs(answer(DOMAIN) - plain).max()) > 1e-3
    assert float(jnp.abs(answer(DOMAIN) - answer(-DOMAIN)).max()) > 1e-3
    # In front of a linear classifier the same shift moves all logits of a place alike.
    places = MAPS[-1].reshape(2, -1, 8)
    logits = lambda shift: jnp.einsum("bqd,bkd->bqk", places, TEXTS + shift * DOMAIN[:, None])
    apart = logits(1) - logits(0)
    np.testing.assert_allclose(apart, apart[..., :1] + jnp.zeros(5), atol=1e-4)


def test_a_shift_of_every_prompt_leaves_attention_over_them_where_it_was():
    key, value, query, shift = (RNG.normal(size=shape) for shape in ((8, 8), (8, 8), (6, 8), (8,)))
    texts = np.asarray(TEXTS, np.float64)
    scores = lambda tokens: query @ (tokens @ key).T
    soft = lambda x: (
        np.exp(x - x.max(-1, keepdims=True))
        / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    )
    before, after = soft(scores(texts)), soft(scores(texts + shift))
    np.testing.assert_allclose(before, after, atol=1e-12)
    moved = after @ ((texts + shift) @ value) - before @ (texts @ value)
    np.testing.assert_allclose(moved, np.tile(shift @ value, (6, 1)), atol=1e-12)


def test_controls_know_nothing_of_the_image_or_all_of_it():
    unit = lambda *shape: jnp.array(np.linalg.qr(RNG.normal(size=shape))[0], jnp.float32)
    descriptions = unit(8, 8)[:4]
    truth = jnp.array([2, 0, 3, 1, 1])
    images = descriptions[truth]
    domain = domain_embedding(images, descriptions, 50.0)
    assert readout(domain, truth) == 1 and entropy(domain) < 1e-6
    wrong = readout(domain, truth.at[0].set(1), jnp.array([1, 1, 1, 1, 0]))
    np.testing.assert_allclose(wrong, 0.75)
    flat = domain_embedding(images, descriptions)  # the paper's: no temperature
    assert entropy(flat) > 0.9 * np.log(4)
    given = {"rng": jax.random.key(3), "truth": truth}
    W = {c: controlled(domain, descriptions, c, **given) for c in ("none", "constant", "oracle")}
    np.testing.assert_allclose(W["none"], W["oracle"], atol=1e-5)
    assert np.ptp(W["constant"], axis=0).max() == 0
    places = domain._replace(embedding=jnp.arange(5.0)[:, None])
    for seed in range(20):
        drawn = controlled(places, descriptions, "shuffled", jax.random.key(seed))[:, 0]
        assert sorted(drawn.tolist()) == [0, 1, 2, 3, 4]
        assert not np.any(drawn == jnp.arange(5))
    for control, words in (
        ("shuffled", "needs an rng"),
        ("oracle", "needs the true"),
        ("x", "known: none, constant"),
    ):
        with pytest.raises(ValueError, match=words):
            controlled(domain, descriptions, control)


def test_levels_stand_side_by_side_whatever_their_scales():
    fine, coarse = MAPS[0], 50 * MAPS[1][:, ::2, ::2] + 7
    seen = side_by_side([fine, coarse])
    assert seen.shape == (2, 4, 6, 16)
    for own in (seen[..., :8], seen[..., 8:]):
        assert 0.5 < float(jnp.std(own)) < 1.5
    np.testing.assert_allclose(seen[..., :8].mean(-1), 0, atol=1e-5)
    # A corner is that of the map itself, resized without blending.
    corner = np.asarray(coarse[:, 0, 0])
    wanted = (corner - corner.mean(1, keepdims=True)) / corner.std(1, keepdims=True)
    np.testing.assert_allclose(seen[:, 0, 0, 8:], wanted, atol=1e-4)
    assert side_by_side([fine]) is fine


def test_maps_are_resized_as_by_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    x = RNG.normal(size=(1, 4, 6, 1))
    for size in ((9, 15), (3, 4)):
        zoom = (size[0] / 4, size[1] / 6)
        wanted = ndimage.zoom(x[0, ..., 0], zoom, order=1, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(resize_map(jnp.array(x), size)[0, ..., 0], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "more", "words"),
    [
        (lambda: DECODERS["linear"](5, stats="mean"), {}, "known: instance, group, layer, batch"),
        (lambda: DECODERS["aspp"](4), {"texts": TEXTS}, "5 texts are no classifier of 4 classes"),
        (lambda: MaskDecoder(5), {}, "needs the texts of its 5 classes"),
    ],
)
def test_what_cannot_be_decoded_is_refused(make, more, words):
    with pytest.raises(ValueError, match=words):
        make().init(jax.random.key(0), MAPS, **more)
