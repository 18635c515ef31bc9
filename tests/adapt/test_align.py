"""Maps that align domains, against NumPy and by what they must do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt import bnm, finetune, mcc
from clipjax.adapt.align import (
    KINDS,
    align_batch,
    aligned,
    apply_map,
    coral_map,
    domain_maps,
    moments,
)
from clipjax.adapt.losses import class_loss, weigh
from clipjax.adapt.method import Backbone, Classes, ClosedForm, Method
from clipjax.model.backbone import make_head
from clipjax.model.heads import Heads

P = 5
RNG = np.random.default_rng(0)


def domain(count, offset):
    mixed = RNG.normal(size=(count, P)) @ RNG.normal(size=(P, P))
    return (0.1 * mixed + offset).astype(np.float32)


SOURCE, TARGET = domain(60, 0.3), domain(40, -0.2)
DATA = {
    "source": {"inputs": jnp.asarray(SOURCE), "label": jnp.asarray(np.arange(60) % 3)},
    "target": {"inputs": jnp.asarray(TARGET)},
}


def raised(matrix, exponent):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**exponent) @ vectors.T


def reference(kind):
    """Both domains' aligned features, in NumPy and float64."""
    source, target = SOURCE.astype(np.float64), TARGET.astype(np.float64)
    source, target = source - source.mean(axis=0), target - target.mean(axis=0)
    if kind == "standardise":
        return source / source.std(axis=0), target / target.std(axis=0)
    if kind == "coral":
        covs = [np.cov(x.T) for x in (source, target)]
        shrunk = [c + 0.01 * np.trace(c) / P * np.eye(P) for c in covs]
        source = source @ raised(shrunk[0], -0.5) @ raised(shrunk[1], 0.5)
        deviation = source.std(axis=0, ddof=1)
        return source / deviation, target / deviation
    return source, target


@pytest.mark.parametrize("kind", KINDS[1:])
def test_aligned_features_are_those_of_numpy(kind):
    maps = jax.jit(domain_maps, static_argnums=1)(DATA, kind)
    found = align_batch(maps, DATA)
    for part, wanted in zip(("source", "target"), reference(kind), strict=True):
        np.testing.assert_allclose(found[part]["inputs"], wanted, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(found[part]["inputs"].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_array_equal(found["source"]["label"], DATA["source"]["label"])


def test_moments_are_numpys():
    mean, cov = moments(DATA["source"]["inputs"])
    np.testing.assert_allclose(mean, SOURCE.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(cov, np.cov(SOURCE.T), rtol=1e-4, atol=1e-7)


def test_mapped_sources_have_the_covariance_of_the_target():
    (_, source), (_, target) = (moments(DATA[part]["inputs"]) for part in ("source", "target"))
    matrix = coral_map(source, target, shrink=0.0)
    np.testing.assert_allclose(matrix.T @ source @ matrix, target, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(coral_map(target, target), np.eye(P), atol=1e-4)


def test_fewer_examples_than_features_and_flat_features_stay_finite():
    few = {part: {"inputs": x["inputs"][:3].at[:, 0].set(0.25)} for part, x in DATA.items()}
    for kind in KINDS[1:]:
        found = align_batch(domain_maps(few, kind), few)
        assert all(np.isfinite(x["inputs"]).all() for x in found.values())
        np.testing.assert_allclose(found["target"]["inputs"][:, 0], 0, atol=1e-6)
    assert np.isfinite(coral_map(jnp.zeros((3, 3)), jnp.zeros((3, 3)))).all()
    with pytest.raises(ValueError, match="unknown alignment 'corl'; known: none, centre"):
        domain_maps(DATA, "corl")


def linear(start=None):
    """A linear head whose answers show what it was given."""

    def loss(params, batch, rng, progress):
        return class_loss(batch["source"]["inputs"] @ params["w"], batch["source"], 0.0)

    predict = lambda params, inputs, texts: inputs @ params["w"]
    return Method(lambda rng: {"w": jnp.ones((P, 3))}, loss, predict, start=start)


def test_a_method_sees_each_domain_through_its_map_and_answers_through_the_targets():
    seen = {}
    made = aligned(linear(lambda data, classes, own: seen.update(data) or own), "coral")
    assert made.reads == ("source", "target") and made.constants == ("align",)
    params = made.start(DATA, None, made.init(None))
    source, target = reference("coral")
    np.testing.assert_allclose(seen["source"]["inputs"], source, rtol=2e-4, atol=2e-5)
    answers = made.predict(params, DATA["source"]["inputs"], None)
    wanted = apply_map(params["align"]["target"], SOURCE) @ params["w"]
    np.testing.assert_allclose(answers, wanted, rtol=1e-6)
    np.testing.assert_allclose(made.features(params, TARGET), target, rtol=2e-4, atol=2e-5)
    plain = {"source": DATA["source"] | {"inputs": jnp.asarray(source, jnp.float32)}}
    value, _ = made.loss(params, DATA, None, 0.0)
    assert float(value) == pytest.approx(float(linear().loss(params, plain, None, 0.0)[0]), 1e-4)


def on_texts(loss, kind, **heads):
    """A method behind a map, its classes' texts, and the parameters that it starts from."""
    texts = RNG.normal(size=(3, P)).astype(np.float32)
    classes = Classes(("a", "b", "c"), None, jnp.asarray(texts), 9.0)
    encode = {"image": lambda params, x, rng=None: x}
    backbone = Backbone(encode, lambda params: 9.0, None, {}, frozenset({"image"}))
    made = loss.make_method(backbone, classes, head=make_head(Heads(3, **heads), backbone, classes))
    heads = Heads(3, **heads)
    made = aligned(made, kind, heads.from_texts and heads.class_bias)
    start = jax.vmap(lambda data, key: made.start(data, classes, made.init(key)), (None, 0))
    params = jax.jit(start)(DATA, jax.random.split(jax.random.key(0), 2))
    return made, classes, jax.tree.map(lambda x: x[1], params)


@pytest.mark.parametrize("loss", [finetune, mcc, bnm])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_linear_head_starts_with_zero_shot_logits_of_raw_target_features(kind, loss):
    made, classes, params = on_texts(loss, kind)
    zero_shot = 9.0 * TARGET @ np.asarray(classes.weights).T
    found = made.predict(params, TARGET, classes)
    np.testing.assert_allclose(found, zero_shot, rtol=1e-4, atol=1e-4)
    # Of raw features the texts, which mapped ones do not fit, would be wrong by far.
    moved = apply_map(params["align"]["target"], TARGET)
    assert np.abs(9.0 * moved @ np.asarray(classes.weights).T - zero_shot).max() > 0.5


def test_other_heads_start_behind_a_map_as_they_do_without():
    for heads in ({"class_bias": False}, {"classifier": (4,)}, {"adapter": (4,)}):
        made, classes, params = on_texts(finetune, "standardise", **heads)
        own = made.init(jax.random.split(jax.random.key(0), 2)[1])
        jax.tree.map(
            np.testing.assert_array_equal, {k: v for k, v in params.items() if k != "align"}, own
        )


@pytest.mark.slow
def test_padding_does_not_count_behind_a_map():
    made = aligned(linear(), "standardise")
    params = made.start(DATA, None, made.init(None))
    mask = jnp.arange(60) < 50
    spoiled = DATA["source"] | {"mask": mask}
    spoiled["inputs"] = jnp.where(mask[:, None], spoiled["inputs"], jnp.nan)
    real = {"source": jax.tree.map(lambda x: x[:50], DATA["source"]), "target": DATA["target"]}
    differentiate = jax.grad(lambda p, batch: made.loss(p, batch, None, 0.0)[0])
    one = differentiate(params, weigh({"source": spoiled, "target": DATA["target"]}))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        one,
        differentiate(params, real),
    )


def test_a_closed_form_is_fitted_to_aligned_features():
    seen = {}
    fit = lambda data, texts: seen.update(data) or {"one": {"w": jnp.eye(P)}}
    made = aligned(ClosedForm(fit, lambda params, x, texts: x @ params["w"]), "standardise")
    found = made.fit(DATA, None)
    source, target = reference("standardise")
    np.testing.assert_allclose(seen["source"]["inputs"], source, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(made.predict(found["one"], TARGET, None), target, 2e-4, 2e-5)
    assert made.reads == ("source", "target")
