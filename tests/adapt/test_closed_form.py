"""Closed forms against scikit-learn and numpy, and what they say of data they cannot fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from clipjax.adapt import blend, debias, gda, logistic, prompts, stata
from clipjax.adapt.method import Classes
from clipjax.adapt.moments import MATCHES, coral_map, domain_map, moments, sum_blocks
from clipjax.configs import closed_form
from clipjax.model.prompts import PROMPTS
from tests.conftest import parsed

WIDTH, COUNT = 8, 4
NAMES = ("cat", "dog", "owl", "bee")


@pytest.fixture(scope="module")
def classes():
    weights = np.random.default_rng(1).standard_normal((COUNT, WIDTH)).astype(np.float32)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return Classes(NAMES, None, weights, 10.0)


@pytest.fixture(scope="module")
def data(classes):
    """A source of 90 images and a target of 70, turned and moved, each class about its text."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]

    def domain(count):
        labels = (np.arange(count) ** 2 % 7 % COUNT).astype(np.int32)
        labels[:COUNT] = np.arange(COUNT)
        return classes.weights[labels] + 0.4 * rng.standard_normal((count, WIDTH)), labels

    unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    (source, labels), (target, _) = domain(90), domain(70)
    target = unit(target @ (np.eye(WIDTH) + 0.3 * turn) + 0.2)
    return {"source": {"inputs": unit(source), "label": labels}, "target": {"inputs": target}}


def layer(params):
    return {k: np.asarray(v) for k, v in params["classifier"]["layer_0"].items()}


def fit(module, data, classes, **options):
    return module.make_method(None, classes, **options).fit(data, classes)


def softmax(z):
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def test_moments_in_blocks_are_numpys():
    x = np.random.default_rng(2).standard_normal((23, 5)).astype(np.float32)
    mean, cov = moments(x)
    np.testing.assert_allclose(mean, x.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(cov, np.cov(x.T), atol=1e-5)
    part = lambda weight, rows: (weight @ rows, jnp.sum(weight))
    for block in (1, 5, 22, 23, 40):  # with and without a rest
        total, rows = sum_blocks(part, (jnp.asarray(x),), block)
        np.testing.assert_allclose(total, x.sum(axis=0), rtol=1e-5, atol=1e-5)
        assert rows == 23


def test_coral_gives_the_source_the_targets_covariance(data):
    source, target = moments(data["source"]["inputs"]), moments(data["target"]["inputs"])
    matrix = np.asarray(coral_map(source[1], target[1], 0.0))
    np.testing.assert_allclose(matrix.T @ np.asarray(source[1]) @ matrix, target[1], atol=1e-4)
    wanted = {"centre": np.eye(WIDTH), "none": np.eye(WIDTH)}
    spread = [np.asarray(x).std(axis=0, ddof=1) for x in (d["inputs"] for d in data.values())]
    wanted["standardise"] = np.diag(spread[1] / spread[0])
    for align, matrix in wanted.items():
        found = domain_map(source, target, align)
        np.testing.assert_allclose(found.matrix, matrix, atol=1e-4)
        np.testing.assert_allclose(found.mean, source[0] if align == "none" else target[0])


@pytest.mark.parametrize("align", MATCHES)
@pytest.mark.parametrize("strength", [0.02, 1.0])
def test_logistic_regression_is_scikit_learns(data, classes, align, strength):
    x, y = data["source"].values()
    found = layer(fit(logistic, data, classes, match=align, strength=strength)["logistic"])
    to_target = domain_map(moments(x), moments(data["target"]["inputs"]), align)
    mapped = (x - np.asarray(to_target.shift)) @ np.asarray(to_target.matrix, np.float64)
    scale = mapped.std(axis=0)
    wanted = LogisticRegression(C=strength, tol=1e-10, max_iter=2000).fit(mapped / scale, y)
    np.testing.assert_allclose(found["kernel"].T * scale, wanted.coef_, atol=1e-3)
    bias = found["bias"] + np.asarray(to_target.mean) @ found["kernel"]
    centred = lambda b: b - b.mean()
    np.testing.assert_allclose(centred(bias), centred(wanted.intercept_), atol=2e-3)


def test_gaussian_discriminants_are_scikit_learns_at_the_same_shrinkage(data, classes):
    x, y = data["source"].values()
    found, count = layer(fit(gda, data, classes, match="none")["gda"]), len(x)
    ratio = WIDTH / (count - 1)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=ratio / (1 + ratio))
    lda.fit(x.astype(np.float64), y)
    factor = (count - COUNT - WIDTH - 1) / ((1 + ratio) * count)
    np.testing.assert_allclose(found["kernel"].T, lda.coef_ * factor, rtol=1e-3, atol=1e-3)
    prior = np.log(np.bincount(y) / count)
    wanted = (lda.intercept_ - prior) * factor + prior
    np.testing.assert_allclose(found["bias"], wanted, rtol=1e-3, atol=1e-3)


def test_debiasing_takes_away_the_mean_prediction(data, classes):
    target, method = data["target"]["inputs"], debias.make_method(None, classes)
    found = method.fit(data, classes)
    assert list(found) == ["tau_0.5", "tau_1"]
    z = 10 * target @ classes.weights.T
    for name, tau in (("tau_0.5", 0.5), ("tau_1", 1.0)):
        wanted = z - tau * np.log(softmax(z).mean(axis=0))
        np.testing.assert_allclose(method.predict(found[name], target, classes), wanted, atol=1e-3)


@pytest.fixture(scope="module")
def prompted(data, classes):
    """The data with three prompt sets: the true texts, blurred ones, and all the same but one."""
    rng, own = np.random.default_rng(3), classes.weights
    flat = np.repeat(own.mean(axis=0, keepdims=True), COUNT, axis=0)
    sets = {"name": flat + 0.05 * own, "a {}": own, "simple": own + rng.normal(size=own.shape)}
    unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return data | {"prompts": {name: unit(texts) for name, texts in sets.items()}}


def test_prompts_are_chosen_by_mutual_information_on_the_target(prompted, classes):
    sets = tuple(prompted["prompts"])
    found = fit(prompts, prompted, classes, sets=sets)
    assert list(found) == ["chosen", "texts", "logits"]
    target, scores = prompted["target"]["inputs"], []
    for weights in prompted["prompts"].values():
        p = softmax(10 * target @ weights.T)
        entropy = lambda q: -np.sum(q * np.log(q), axis=-1)
        scores.append(entropy(p.mean(axis=0)) - entropy(p).mean())
    np.testing.assert_allclose(found["chosen"]["scores"], scores, rtol=1e-4)
    best = prompted["prompts"][sets[int(np.argmax(scores))]]
    assert len({round(float(score), 3) for score in scores}) == 3 and np.argmax(scores) > 0
    np.testing.assert_allclose(layer(found["chosen"])["kernel"], 10 * best.T, rtol=1e-6)


def test_prompts_as_an_ensemble_are_the_mean_of_texts_or_of_logits(prompted, classes):
    each = list(prompted["prompts"].values())
    made = prompts.make_method(
        None, classes, take="texts", sets=tuple(prompted["prompts"]), tau=0.5
    )
    assert made.reads == ("source", "target", "prompts/name", "prompts/a {}", "prompts/simple")
    found, target = made.fit(prompted, classes), prompted["target"]["inputs"]
    assert next(iter(found)) == "texts"
    mean = np.mean(each, axis=0)
    for name, texts in (
        ("texts", mean / np.linalg.norm(mean, axis=1, keepdims=True)),
        ("logits", mean),
    ):
        logits = 10 * target @ texts.T
        wanted = logits - 0.5 * np.log(softmax(logits).mean(axis=0))
        np.testing.assert_allclose(made.predict(found[name], target, classes), wanted, rtol=1e-3)


def test_all_named_prompt_sets_are_tried_but_the_long_one():
    assert set(prompts.SETS) == set(PROMPTS) - {"ensemble"}


@pytest.mark.parametrize("kind", blend.HEADS)
def test_the_blend_is_debiased_zero_shot_and_so_much_of_the_head(data, classes, kind):
    found = fit(blend, data, classes, kind=kind)["blend"]
    chosen = {k: float(v) for k, v in found["chosen"].items()}
    target = data["target"]["inputs"]
    confidence = softmax(10 * target @ classes.weights.T).max(axis=1).mean()
    assert chosen["confidence"] == pytest.approx(confidence, abs=1e-4)
    assert chosen["weight"] == pytest.approx(min(1, chosen["accuracy"] / confidence), abs=1e-4)
    base = layer(fit(debias, data, classes)["tau_0.5"])
    head = layer(fit(gda if kind == "gda" else logistic, data, classes)[kind])
    for key, value in layer(found).items():
        wanted = base[key] + chosen["weight"] * chosen["factor"] * head[key]
        np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=2e-3)
    nothing = layer(fit(blend, data, classes, kind=kind, weight=0.0)["blend"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), nothing, base)


def test_one_example_a_class_is_dealt_to_all_folds():
    fold = np.asarray(blend.fold_of(jnp.array([2, 0, 1, 3]), 2))
    assert np.bincount(fold).tolist() == [2, 2]


def test_folds_hold_each_example_out_once_and_classes_evenly(data):
    labels = jnp.asarray(data["source"]["label"])
    fold = np.asarray(blend.fold_of(labels, 3))
    for label in range(COUNT):
        counts = np.bincount(fold[np.asarray(labels) == label], minlength=3)
        assert counts.max() - counts.min() <= 1


def test_calibration_finds_the_temperature():
    rng = np.random.default_rng(3)
    z = rng.standard_normal((4000, 5))
    labels = (softmax(2 * z).cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    assert 1.6 < float(blend.calibration(jnp.asarray(z), jnp.asarray(labels))) < 2.5


def by_hand(x, texts, rounds, more, neighbours=0):
    """StatA in numpy, a loop over classes; returns the logits."""
    own = 10 * x @ texts.T
    y = softmax(own)
    start = sum(y[:, [c]] * (x - texts[c]) ** 2 for c in range(COUNT)).sum(axis=0) / len(x)
    mean, spread = texts.copy(), np.tile(start, (COUNT, 1))

    def logits():
        apart = (x[:, None] - mean) ** 2 / spread + np.log(spread)
        return own - apart.sum(axis=2) / 100

    def drawn(z):
        pulls = np.zeros_like(z)
        for i, row in enumerate(x @ x.T):
            for j in sorted(set(range(len(x))) - {i}, key=lambda j: -row[j])[:neighbours]:
                for one, other in ((i, j), (j, i)):
                    pulls[one] += max(0, row[j]) * z[other] / (2 * neighbours)
        return pulls

    settled = y
    for _ in range(rounds):
        z, weight = softmax(logits()), np.ones(len(x))
        for _ in range(5 if neighbours else 0):
            z = settled = softmax(logits() + drawn(settled))
        rows = x
        if more is not None:
            z, rows = np.concatenate([z, np.eye(COUNT)[more[1]]]), np.concatenate([x, more[0]])
            weight = np.concatenate([weight, np.full(len(more[0]), 0.1)])
        for c in range(COUNT):
            w = z[:, c] * weight
            share = w.sum() / (1 + w.sum())
            m = share * (w @ rows) / w.sum() + (1 - share) * texts[c]
            mean[c] = m / np.linalg.norm(m)
            v = w @ (rows - mean[c]) ** 2 / w.sum()
            spread[c] = share * v + (1 - share) * (start + (texts[c] - mean[c]) ** 2)
    return logits()


@pytest.mark.parametrize("neighbours", [0, 3])
@pytest.mark.parametrize("name", ["stata", "target_only"])
def test_stata_is_a_loop_in_numpy(data, classes, name, neighbours):
    method = stata.make_method(None, classes, match="none", steps=3, neighbours=neighbours)
    target = data["target"]["inputs"]
    found = method.predict(method.fit(data, classes)[name], target, classes)
    more = tuple(data["source"].values()) if name == "stata" else None
    texts = classes.weights.astype(np.float64)
    wanted = by_hand(target.astype(np.float64), texts, 3, more, neighbours)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


METHODS = {"debias": debias, "logistic": logistic, "gda": gda, "blend": blend, "stata": stata}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("what", ["few", "one", "alike"])
def test_poor_targets_give_finite_heads(data, classes, name, what):
    """Fewer target images than features, a single one, and one class that all look alike."""
    target = data["target"]["inputs"]
    target = {"few": target[:3], "one": target[:1], "alike": np.repeat(target[:1], 9, axis=0)}
    found = fit(METHODS[name], data | {"target": {"inputs": target[what]}}, classes)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.parametrize("name", METHODS)
def test_no_target_images_are_refused(data, classes, name):
    with pytest.raises(ValueError, match="'target'.*is empty"):
        fit(METHODS[name], data | {"target": {"inputs": np.zeros((0, WIDTH))}}, classes)


def test_features_of_another_model_than_the_texts_are_refused(data, classes):
    other = data | {"target": {"inputs": data["target"]["inputs"][:, :-1]}}
    with pytest.raises(ValueError, match=r"width \d+ meet texts or a head of width \d+; take both"):
        fit(debias, other, classes)


def test_a_class_without_source_images(data, classes):
    x, y = data["source"].values()
    fewer = data | {"source": {"inputs": x[y != 2], "label": y[y != 2]}}
    for module, options in ((gda, {}), (blend, {"kind": "gda"})):
        with pytest.raises(ValueError, match="no source image of class 'owl': a Gaussian needs"):
            fit(module, fewer, classes, **options)
    found = layer(fit(logistic, fewer, classes, match="none")["logistic"])
    logits = x @ found["kernel"] + found["bias"]
    assert np.isfinite(logits).all() and (logits.argmax(axis=1) != 2).all()


@pytest.mark.parametrize(
    "prior, words",
    [
        ([0.5, 0.5], r"shape \(2,\) for 4 classes"),
        ([2, 1, 1, 0], "no distribution: its least value is 0 and its sum 4"),
        ([1.5, -0.5, 0, 0], "least value is -0.5"),
        ([np.nan, 1, 0, 0], "no distribution"),
    ],
)
def test_priors_that_are_no_distribution(prior, words):
    with pytest.raises(ValueError, match=words):
        debias.debias(jnp.zeros((3, 4)), jnp.asarray(prior))


@pytest.mark.parametrize(
    "module, options, words",
    [
        (logistic, {"match": "corral"}, "match is 'corral'; known: coral, standardise"),
        (logistic, {"strength": 0.0}, "strength is 0.0; give a positive one"),
        (debias, {"tau": -1.0}, "tau is -1.0; it must not be negative"),
        (blend, {"kind": "svm"}, "kind is 'svm'; known: logistic, gda"),
        (blend, {"folds": 1}, "at least 2 folds"),
        (stata, {"anchor": "image"}, "anchor is 'image'; known: text, shared"),
        (stata, {"alpha": 0.0}, "give positive alpha"),
        (stata, {"neighbours": -1}, "neighbours is -1; give a number of images, or 0"),
        (prompts, {"take": "best"}, "take is 'best'; known: chosen, texts, logits"),
        (prompts, {"sets": "name"}, "sets is 'name'; give a tuple of two prompt sets or more"),
        (prompts, {"sets": ("name", "name")}, "each once"),
    ],
)
def test_options_out_of_range(classes, module, options, words):
    with pytest.raises(ValueError, match=words):
        module.make_method(None, classes, **options)


def test_mapped_features_reach_a_fit_without_a_copy(tmp_path):
    from clipjax.study.closed_form import in_float32

    np.save(tmp_path / "x.npy", np.ones((64, 16), np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert in_float32(mapped).unsafe_buffer_pointer() == mapped.ctypes.data
    assert in_float32(np.ones(3, np.float16)).dtype == jnp.float32
    assert in_float32(np.arange(3, dtype=np.int32)).dtype == jnp.int32


@pytest.mark.slow
def test_the_config_runs_as_a_study(photos, wee_clip, tmp_path):
    from clipjax.study import run

    config = closed_form.get_config("smoke")
    config.model, config.features.batch_size = str(wee_clip), 8
    config.data.name, config.data.root = "folder", str(photos)
    config.data.source, config.data.target = "real", "sketch"
    results = run(parsed(config), tmp_path / "w", pages=False)
    rows = {(r["method"], r["variant"]) for r in results.rows if r["split"] == "test"}
    wanted = {("blend", "blend"), ("debias", "tau_0.5"), ("debias", "tau_1"), ("gda", "gda")}
    wanted |= {("prompts_chosen", "chosen"), ("prompts_ensemble", "texts")}
    wanted |= {("logistic", "debiased"), ("stata", "stata"), ("stata", "target_only")}
    assert wanted <= rows
    assert run(parsed(config), tmp_path / "w").rows == results.rows  # read back
