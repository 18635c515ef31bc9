"""CMKD, SHOT, distillation and FixMatch: their terms against PyTorch, SciPy and loops by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import entropy

from clipjax.adapt import anchors, cmkd, distill, fixmatch, shot
from clipjax.adapt.losses import weigh
from clipjax.adapt.method import Backbone, Classes, DannModel
from clipjax.model.backbone import make_head
from clipjax.model.heads import Heads

RNG = np.random.default_rng(5)
N, K, WIDTH = 9, 4, 6
REAL = np.array([True] * 7 + [False] * 2)
WEIGHT = jnp.asarray(REAL * (N / 7), jnp.float32)
LOGITS, OTHERS = (2 * RNG.normal(size=(2, N, K))).astype(np.float32)
LABELS = RNG.integers(K, size=N).astype(np.int32)
GARBAGE = (np.nan, np.inf, 3e38)


def spoiled(rows, garbage):
    real = REAL.reshape(-1, *[1] * (rows.ndim - 1))
    return jnp.asarray(np.where(real, rows, rows.dtype.type(garbage)))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_entropies_and_divergences_are_scipys():
    p, q = softmax(LOGITS), softmax(OTHERS)
    close = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    close(anchors.mean_entropy(LOGITS), entropy(p, axis=1).mean())
    close(anchors.entropy_of_mean(LOGITS), entropy(p.mean(axis=0)))
    close(anchors.divergence(OTHERS, LOGITS), entropy(q, p, axis=1))
    close(
        anchors.soft_cross_entropy(LOGITS, q), (entropy(q, axis=1) + entropy(q, p, axis=1)).mean()
    )


def test_gini_by_a_loop():
    p, coefficient = softmax(LOGITS), RNG.uniform(size=N)
    total = sum(
        coefficient[i] * (1 - sum(p[i, k] ** 2 / sum(p[j, k] for j in range(N)) for k in range(K)))
        for i in range(N)
    )
    assert float(cmkd.gini(p, coefficient)) == pytest.approx(total, rel=1e-5)


def test_gini_terms_and_their_gradients_are_torchs():
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    theirs = torch.tensor(LOGITS, requires_grad=True)
    p, q = theirs.softmax(1), torch.tensor(OTHERS).softmax(1)
    agreed = torch.exp(-torch.nn.functional.kl_div(p.log(), q, reduction="none").sum(1)).detach()
    gini = lambda p, c: (c * (1 - (p**2 / p.sum(0, keepdim=True).detach()).sum(1))).sum()
    want = (gini(p, agreed), gini((p + q) / 2, 1 - agreed))
    (want[0] + 3 * want[1]).backward()

    def ours(x):
        own, mixed = cmkd.gini_terms(x, jnp.asarray(OTHERS))
        return own + 3 * mixed, (own, mixed)

    (_, found), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(jnp.asarray(LOGITS))
    np.testing.assert_allclose(found, [x.item() for x in want], rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-6)
    through_texts = jax.jit(jax.grad(lambda q: sum(cmkd.gini_terms(jnp.asarray(LOGITS), q))))
    assert not np.any(through_texts(jnp.asarray(OTHERS)))


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_the_temperature_is_that_of_scipys_minimiser(scale):
    logits = scale * (LOGITS + 1.5 * np.eye(K)[LABELS]).astype(np.float32)

    def loss(log_t):
        p = softmax(logits.astype(np.float64) / np.exp(log_t))
        return -np.mean(np.log(p[np.arange(N), LABELS]))

    want = np.exp(minimize_scalar(loss, bounds=(-3.4, 3.4), method="bounded").x)
    assert float(anchors.fit_temperature(logits, LABELS)) == pytest.approx(want, rel=1e-3)
    heat = float(anchors.confident_temperature(logits, 0.8))
    assert softmax(logits / heat).max(axis=1).mean() == pytest.approx(0.8, abs=1e-4)


def test_debiased_logits_by_numpy():
    p = softmax(LOGITS)
    want = np.log(p) - 0.5 * np.log(p.mean(axis=0))
    np.testing.assert_allclose(distill.debiased(LOGITS, 0.5), want, rtol=1e-4, atol=1e-5)
    even = softmax(np.asarray(distill.debiased(LOGITS, 1.0))).mean(axis=0)
    assert np.std(even) < np.std(p.mean(axis=0))


def test_temperatures_stay_in_their_range():
    right, wrong = np.eye(K, dtype=np.float32)[LABELS], -np.eye(K, dtype=np.float32)[LABELS]
    assert float(anchors.fit_temperature(right, LABELS)) == pytest.approx(1 / anchors.WIDEST, 1e-3)
    assert float(anchors.fit_temperature(wrong, LABELS)) == pytest.approx(anchors.WIDEST, 1e-3)


def test_centroid_labels_by_the_papers_loop():
    features = RNG.normal(size=(N, WIDTH)).astype(np.float32)
    logits = LOGITS.copy()
    logits[:, 3] = -9.0  # nobody's class: it has no centroid
    rows = np.concatenate([features, np.ones((N, 1))], axis=1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    share, labels = softmax(logits), logits.argmax(axis=1)
    for _ in range(2):
        known = np.unique(labels)
        centroids = (share.T @ rows)[known]
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        labels = known[(rows @ centroids.T).argmax(axis=1)]
        share = np.eye(K)[labels]
    found = shot.centroid_labels(jnp.asarray(features), jnp.asarray(logits))
    assert found.tolist() == labels.tolist() and 3 not in labels
    assert len(set(labels)) > 1 and labels.tolist() != logits.argmax(axis=1).tolist()


def test_pseudo_labels_are_torchs_masked_mean():
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    strong, answers = torch.tensor(LOGITS, requires_grad=True), torch.tensor(OTHERS).softmax(1)
    largest, label = answers.max(1)
    each = torch.nn.functional.cross_entropy(strong, label, reduction="none")
    want = (each * (largest >= 0.7)).mean()
    want.backward()
    ours = lambda x: fixmatch.pseudo_label_loss(x, jnp.asarray(answers.numpy()), 0.7)
    (value, share), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(jnp.asarray(LOGITS))
    assert float(value) == pytest.approx(want.item(), rel=1e-5)
    assert 0 < float(share) < 1 and float(share) == pytest.approx((largest >= 0.7).sum() / N)
    np.testing.assert_allclose(gradient, strong.grad.numpy(), atol=1e-6)


TERMS = {
    "entropy": lambda x: anchors.mean_entropy(x, WEIGHT),
    "diversity": lambda x: anchors.entropy_of_mean(x, WEIGHT),
    "soft": lambda x: anchors.soft_cross_entropy(x, x, WEIGHT),
    "temperature": lambda x: anchors.fit_temperature(x, jnp.asarray(LABELS), WEIGHT),
    "gini": lambda x: sum(cmkd.gini_terms(x, x, WEIGHT)),
    "centroids": lambda x: shot.centroid_labels(x, x, WEIGHT)[:7].astype(jnp.float32).sum(),
    "debiased": lambda x: distill.debiased(x, 0.7, WEIGHT)[:7].sum(),
    "pseudo": lambda x: fixmatch.pseudo_label_loss(x, x, 0.5, WEIGHT)[0],
}


@pytest.mark.parametrize("name", TERMS)
def test_rows_without_weight_reach_neither_values_nor_gradients(name):
    differentiate = jax.jit(jax.value_and_grad(TERMS[name]))
    want = differentiate(spoiled(LOGITS, 0.0))
    assert np.isfinite(want[0])
    for garbage in GARBAGE:
        jax.tree.map(np.testing.assert_array_equal, differentiate(spoiled(LOGITS, garbage)), want)


MODEL = DannModel(
    lambda p, x, rng=None: jnp.tanh(x @ p["body"]) * (1.0 if rng is None else 0.9),
    lambda p, f: f @ p["head"],
    None,
)
PARAMS = {
    name: jnp.asarray(RNG.normal(size=shape), jnp.float32)
    for name, shape in {"body": (WIDTH, 5), "head": (5, K), "texts": (5, K)}.items()
}


def two_heads(params, inputs, rng=None):
    features = MODEL.features(params, inputs, rng)
    return features @ params["head"], 3 * features @ params["texts"]


LOSSES = {
    "cmkd": cmkd.make_loss(two_heads, anchor=0.3),
    "shot": shot.make_loss(MODEL, pseudo_weight=0.3),
    "source free": shot.make_loss(MODEL, source_weight=0.0),
    "distill": distill.make_loss(MODEL, debias=0.5),
    "confident": distill.make_loss(MODEL, calibration="confidence", source_weight=0.3),
    "fixmatch": fixmatch.make_loss(MODEL, threshold=0.5),
    "by the head": fixmatch.make_loss(MODEL, threshold=0.4, teacher="head"),
}
ROWS = RNG.normal(size=(2, N, WIDTH)).astype(np.float32)


def batch_of(garbage=None):
    """A batch whose last rows are padding, or without them."""
    parts = {"source": ROWS[0], "target": ROWS[1]}
    take = lambda x: jnp.asarray(x[REAL]) if garbage is None else spoiled(x, garbage)
    found = {
        name: {"inputs": take(rows), "zero_shot": take(logits)}
        for (name, rows), logits in zip(parts.items(), (LOGITS, OTHERS), strict=True)
    }
    found["source"]["label"] = take(LABELS) if garbage is None else spoiled(LABELS, K)
    masks = {} if garbage is None else {"mask": jnp.asarray(REAL)}
    return {name: part | masks for name, part in found.items()}


@functools.cache
def compiled(name):
    """(params, batch) -> ((loss, metrics), gradients), compiled once for each form of a batch."""
    loss = lambda p, batch: LOSSES[name](p, batch, None, 0.5)
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def differentiate(name, batch):
    return compiled(name)(PARAMS, batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_padding_changes_no_loss_metric_or_gradient(name):
    want = differentiate(name, batch_of())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(want))
    assert max(np.abs(x).max() for x in jax.tree.leaves(want[1])) > 1e-3
    for garbage in (np.nan, 3e38):
        found = differentiate(name, batch_of(garbage))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), found, want
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shot", "source free", "distill"])
def test_gradients_are_finite_differences(name):
    batch = batch_of()
    value = lambda p: compiled(name)(p, batch)[0][0]
    (_, _), gradient = differentiate(name, batch)
    for key in ("body", "head"):
        direction = jnp.asarray(RNG.normal(size=PARAMS[key].shape), jnp.float32)
        moved = lambda step: PARAMS | {key: PARAMS[key] + step * direction}  # noqa: B023
        slope = (value(moved(2e-3)) - value(moved(-2e-3))) / 4e-3
        assert float(slope) == pytest.approx(float(jnp.sum(gradient[key] * direction)), rel=2e-2)


def test_the_whole_of_cmkd_is_torchs():
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    entropy_loss = torch.nn.functional.cross_entropy
    weights = {k: torch.tensor(np.array(v), requires_grad=True) for k, v in PARAMS.items()}
    features = [torch.tanh(torch.tensor(x[REAL]) @ weights["body"]) for x in ROWS]
    (p_source, p_target), (q_source, q_target) = (
        [scale * f @ weights[key] for f in features] for key, scale in (("head", 1), ("texts", 3))
    )
    labels = torch.tensor(LABELS[REAL]).long()
    p, q = p_target.softmax(1), q_target.softmax(1)
    agreed = torch.exp(-(q * (q.log() - p.log())).sum(1)).detach()
    gini = lambda p, c: (c * (1 - (p**2 / p.sum(0).detach()).sum(1))).sum()
    ramp = 2 / (1 + np.exp(-10 * 0.5)) - 1
    want = entropy_loss(p_source, labels, label_smoothing=0.1)
    want = want + 0.25 * ramp * (gini(p, agreed) + gini((p + q.detach()) / 2, 1 - agreed))
    want = want + 0.1 * entropy_loss(q_source, labels) + 0.025 * ramp * gini(q, 1)
    want.backward()
    loss = lambda params: cmkd.make_loss(two_heads)(params, batch_of(), None, 0.5)[0]
    value, gradient = jax.jit(jax.value_and_grad(loss))(PARAMS)
    assert float(value) == pytest.approx(want.item(), rel=1e-5)
    for key, theirs in weights.items():
        np.testing.assert_allclose(gradient[key], theirs.grad.numpy(), rtol=1e-4, atol=1e-5)


def in_torch(torch, name):
    """Loss and leaves of SHOT, distillation and FixMatch as `LOSSES` has them, from the papers."""
    nn, array = torch.nn.functional, lambda x: torch.tensor(np.array(x))
    leaves = {k: array(v).requires_grad_() for k, v in PARAMS.items()}
    z_source, z_target = (array(x[REAL]) for x in (LOGITS, OTHERS))
    features = [torch.tanh(array(x[REAL]) @ leaves["body"]) for x in ROWS]
    source, target = (f @ leaves["head"] for f in features)
    labels, p = array(LABELS[REAL]).long(), target.softmax(1)
    value = nn.cross_entropy(source, labels, label_smoothing=0.1)
    if name == "shot":
        mean = p.mean(0)
        value = value - (p * p.log()).sum(1).mean() + (mean * mean.log()).sum()
        value = value + nn.kl_div(p.log(), z_target.softmax(1), reduction="batchmean")
        near = shot.centroid_labels(*(jnp.asarray(x.detach()) for x in (features[1], target)))
        return value + 0.3 * nn.cross_entropy(target, array(near).long()), leaves
    if name == "distill":
        taught = (z_target / float(anchors.fit_temperature(LOGITS[REAL], LABELS[REAL]))).softmax(1)
        taught = (taught.log() - 0.5 * taught.mean(0).log()).softmax(1)
        return value + nn.cross_entropy(target, taught), leaves
    sure, label = ((z_target.softmax(1) + p) / 2).detach().max(1)
    assert 0 < (sure >= 0.5).sum() < len(label)
    away = nn.cross_entropy(target, label, reduction="none")
    return value + (away * (sure >= 0.5)).mean(), leaves


@pytest.mark.parametrize("name", ["shot", "distill", "fixmatch"])
def test_whole_losses_and_their_gradients_are_torchs(name):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    want, leaves = in_torch(torch, name)
    want.backward()
    (value, _), gradient = differentiate(name, batch_of())
    assert float(value) == pytest.approx(want.item(), rel=1e-5)
    for key in ("body", "head"):
        np.testing.assert_allclose(gradient[key], leaves[key].grad.numpy(), rtol=1e-3, atol=1e-5)


def test_no_source_image_reaches_a_source_free_head():
    batch = batch_of()
    want = differentiate("source free", batch)
    batch["source"] |= {
        "inputs": 5 + batch["source"]["inputs"],
        "label": batch["source"]["label"] * 0,
    }
    jax.tree.map(np.testing.assert_array_equal, differentiate("source free", batch), want)


CLASSES = Classes(("a", "b", "c", "d"), None, RNG.normal(size=(K, WIDTH)), 7.0)


def method_of(module, cached=("image",), **options):
    backbone = Backbone({"image": lambda p, x, rng=None: x}, None, None, {}, frozenset(cached))
    head = make_head(Heads(num_classes=K, class_bias=False), backbone, CLASSES)
    return module.make_method(backbone, CLASSES, head=head, **options)


@pytest.mark.parametrize("module", [cmkd, shot, distill, fixmatch])
def test_a_linear_head_starts_as_the_zero_shot_classifier(module):
    method = method_of(module)
    params = method.init(jax.random.key(0))
    found = method.predict(params, jnp.asarray(ROWS[0]), CLASSES)
    np.testing.assert_allclose(found, 7 * ROWS[0] @ CLASSES.weights.T, rtol=1e-4, atol=1e-4)
    assert method.reads == ("source", "target", "zero_shot")
    assert method.per_example == (module is fixmatch)  # others compare the examples of a batch


def test_terms_of_the_texts_alone_need_a_free_encoder():
    batch = batch_of()
    for cached, metrics in ((("image",), set()), ((), {"text_loss", "text_gini"})):
        method = method_of(cmkd, cached)
        params = method.init(jax.random.key(0))
        _, found = method.loss(params, batch, None, 0.5)
        assert found.keys() & {"text_loss", "text_gini"} == metrics
        head = params["classifier"]["layer_0"]["kernel"]
        texts = 7 * batch["target"]["inputs"] @ CLASSES.weights.T
        texts = batch["target"]["zero_shot"] if cached else texts
        want = cmkd.gini_terms(batch["target"]["inputs"] @ head, texts)
        np.testing.assert_allclose((found["task_gini"], found["mixed_gini"]), want, rtol=1e-4)


@pytest.mark.slow
def test_fixmatch_is_a_mean_over_examples_and_alters_cached_embeddings():
    method = method_of(fixmatch, threshold=0.3)
    params = method.init(jax.random.key(0))
    batch = batch_of()
    # A row of the source and of the target each: their mean is the loss of all.
    one = lambda i: jax.tree.map(lambda x: x[i : i + 1], batch)
    value = jax.jit(lambda batch: method.loss(params, batch, None, 0.5)[0])
    mean = np.mean([float(value(one(i))) for i in range(7)])
    assert float(value(batch)) == pytest.approx(mean, rel=1e-5)
    lose = lambda n: jax.jit(method_of(fixmatch, threshold=0.3, noise=n).loss)
    values = [
        float(lose(n)(params, batch, key, 0.5)[0])
        for n, key in ((0.0, None), (0.0, jax.random.key(1)), (0.5, jax.random.key(1)))
    ]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: cmkd.make_loss(two_heads, gini_weight=-1.0), "none may be negative"),
        (lambda: shot.make_loss(MODEL, anchor=-1.0), "none may be negative"),
        (lambda: distill.make_loss(MODEL, calibration="mle"), "known: likelihood, confidence"),
        (lambda: distill.make_loss(MODEL, confidence=1.0), "share between 0 and 1"),
        (lambda: distill.make_loss(MODEL, debias=-1.0), "must not be negative"),
        (lambda: fixmatch.make_loss(MODEL, teacher="text"), "known: both, head"),
        (lambda: fixmatch.make_loss(MODEL, threshold=2.0), "threshold from 0 to 1"),
        (lambda: method_of(fixmatch, noise=-1.0), "must not be negative"),
        (lambda: anchors.mean_entropy(jnp.zeros((2, 3, 4))), "set heads.members to 1"),
        (lambda: LOSSES["distill"](PARAMS, weigh({"source": {}}), None, 0.0), "has no 'inputs'"),
    ],
)
def test_bad_options_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", ["cmkd", "shot", "distill", "fixmatch"])
def test_a_teacher_of_other_classes_is_refused(name):
    given = batch_of()
    for part in given.values():
        part["zero_shot"] = jnp.zeros((7, K + 1))
    with pytest.raises(ValueError, match=f"of {K + 1} classes teach a head of {K}; take them from"):
        jax.eval_shape(LOSSES[name], PARAMS, given, None, 0.5)
