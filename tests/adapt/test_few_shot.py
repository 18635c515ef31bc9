"""Few-shot methods on cached features against their formulas, torch and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from clipjax.adapt import clip_adapter, gda_few_shot, lp_plus, probe, tip, tip_f
from clipjax.adapt.linear import linear_logits
from clipjax.adapt.losses import weigh
from clipjax.adapt.method import Backbone, Classes

WIDTH, COUNT, SHOTS = 8, 4, 5
NAMES = ("cat", "dog", "owl", "bee")
GRID = {"largest": (7.0, 3.0), "steps": (20, 6)}
CLOSED = {"tip": (tip, GRID), "gda_few_shot": (gda_few_shot, {}), "lp_plus": (lp_plus, {})}
TRAINED = {"clip_adapter": (clip_adapter, {}), "tip_f": (tip_f, GRID | {"shots": SHOTS})}
unit = lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def classes():
    weights = unit(np.random.default_rng(1).standard_normal((COUNT, WIDTH)))
    return Classes(NAMES, None, weights, 10.0)


@pytest.fixture(scope="module")
def data(classes):
    """Images about their classes' texts, turned, so that validation images ask for a mixture."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]

    def part(each):
        label = np.arange(COUNT * each, dtype=np.int32) % COUNT
        x = classes.weights[label] @ (np.eye(WIDTH) + 0.9 * turn)
        return {"inputs": unit(x + 0.35 * rng.standard_normal(x.shape)), "label": label}

    return {"source": part(SHOTS), "validation": part(12)}


@pytest.fixture(scope="module")
def backbone():
    encode = {"image": lambda params, x, rng=None: x}
    return Backbone(encode, None, None, {}, frozenset({"image"}))


def zero_shot(x, classes):
    return classes.scale * x @ np.asarray(classes.weights).T


def fitted(name, data, classes, **options):
    module, more = CLOSED[name]
    more = {} if "ratios" in options else more
    method = module.make_method(None, classes, **(more | options))
    (params,) = method.fit(data, classes).values()
    return method, params


def begun(name, backbone, data, classes, **options):
    module, more = TRAINED[name]
    more = {"shots": SHOTS} if "ratios" in options else more
    method = module.make_method(backbone, classes, **(more | options))
    own = method.init(jax.random.key(0))
    return method, own if method.start is None else method.start(data, classes, own)


def test_published_reference_values():
    keys, values = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), jnp.eye(2)[jnp.array([0, 1, 1])]
    texts = Classes(("a", "b"), None, np.array([[0.96, 0.28], [0.28, 0.96]], np.float32), 100.0)
    cache = {"keys": keys, "values": values, "ratio": 1.0, "sharpness": 5.5}
    found = tip.cache_logits(cache, jnp.array([[0.8, 0.6]]), texts)
    np.testing.assert_allclose(found, [[93.932871, 80.913322]], rtol=1e-6)
    x = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], np.float32)
    source = {"inputs": x, "label": np.array([0, 0, 1, 1], np.int32)}
    plain = gda_few_shot.make_method(None, texts, alphas=1.0)
    assert plain.reads == ("source",)
    head = plain.fit({"source": source}, texts)["gda_few_shot"]["classifier"]["layer_0"]
    own = np.asarray(head["kernel"]).T - 100 * texts.weights
    np.testing.assert_allclose(own, [[5.4, 1.8], [-1.8, 5.4]], atol=1e-4)
    np.testing.assert_allclose(head["bias"], [-3.393147] * 2, rtol=1e-5)


def test_the_grid_is_searched_as_the_published_code_does(data, classes):
    _, found = fitted("tip", data, classes)
    x, labels, held, truth = (part[k] for part in data.values() for k in ("inputs", "label"))
    betas = [i * (7 - 0.1) / 20 + 0.1 for i in range(20)]
    alphas = [i * (3 - 0.1) / 6 + 0.1 for i in range(6)]
    best, right = None, {}
    for beta in betas:
        for alpha in alphas:
            near = np.exp(-beta * (1 - held @ x.T)) @ np.eye(COUNT)[labels]
            hit = (zero_shot(held, classes) + alpha * near).argmax(axis=1) == truth
            right[beta, alpha] = hit.sum()
            best = (beta, alpha) if best is None or right[beta, alpha] > right[best] else best
    assert len(set(right.values())) > 3 and best != (betas[0], alphas[0])
    np.testing.assert_allclose((found["sharpness"], found["ratio"]), best, rtol=1e-5)
    # In blocks of which the last begins early.
    cache = {"keys": x, "values": np.eye(COUNT, dtype=np.float32)[labels]}
    grid = tip.grid_of((), (), (7.0, 3.0), (20, 6))
    blocks = tip.searched(cache, data["validation"], classes, grid, block=17)
    assert blocks["ratio"] == found["ratio"] and blocks["sharpness"] == found["sharpness"]


def test_the_discriminant_is_the_published_code_s(data, classes):
    _, found = fitted("gda_few_shot", data, classes)
    x, labels, held, truth = (part[k] for part in data.values() for k in ("inputs", "label"))
    means = np.stack([x[labels == k].mean(axis=0) for k in range(COUNT)])
    apart = (x - means[labels]).astype(np.float64)
    cov = np.cov(apart.T)
    inverse = WIDTH * np.linalg.pinv((len(x) - 1) * cov + np.trace(cov) * np.eye(WIDTH))
    bias = -np.log(COUNT) - np.einsum("nd,dc,nc->n", means, inverse, means) / 2
    logits = lambda x, alpha: zero_shot(x, classes) + alpha * (x @ inverse @ means.T + bias)
    right = [(logits(held, a).argmax(axis=1) == truth).sum() for a in gda_few_shot.ALPHAS]
    assert len(set(right)) > 1 and right[0] < max(right)
    alpha = gda_few_shot.ALPHAS[int(np.argmax(right))]
    assert float(found["alpha"]) == pytest.approx(alpha)
    np.testing.assert_allclose(
        linear_logits(found, held), logits(held, alpha), rtol=2e-3, atol=2e-3
    )


def test_new_classes_take_neighbours_of_their_texts(data, classes):
    method, found = fitted("gda_few_shot", data, classes, neighbours=6, copies=3)
    x, rng = data["source"]["inputs"].astype(np.float64), np.random.default_rng(4)
    new = Classes(("hen", "yak", "ant"), None, unit(rng.standard_normal((3, WIDTH))), 10.0)
    means, inverse = [], 0
    for text in new.weights.astype(np.float64):
        near = x[np.argsort(-(x @ text))[:6]]
        means.append(np.concatenate([near, np.repeat(text[None], 3, axis=0)]).mean(axis=0))
        cov = (near - text).T @ (near - text) / 5
        inverse += WIDTH * np.linalg.pinv(5 * cov + np.trace(cov) * np.eye(WIDTH)) / 3
    means = np.stack(means)
    bias = -np.log(3) - np.einsum("nd,dc,nc->n", means, inverse, means) / 2
    wanted = zero_shot(x, new) + float(found["alpha"]) * (x @ inverse @ means.T + bias)
    logits = method.predict(found, data["source"]["inputs"], new)
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3)
    closed, found = fitted("gda_few_shot", data, classes, neighbours=0)
    assert "features" not in found
    with pytest.raises(ValueError, match="holds its 4 classes .* cannot name 'hen'"):
        closed.predict(found, x, new)


@pytest.mark.parametrize("accumulates", [False, True])
def test_lp_plus_is_its_code_in_torch(data, classes, accumulates):
    _, found = fitted("lp_plus", data, classes, accumulates=accumulates, iterations=60)
    x, labels, held, truth = (
        torch.tensor(part[k]) for part in data.values() for k in ("inputs", "label")
    )
    labels, truth, texts = labels.long(), truth.long(), torch.tensor(classes.weights)
    hot = torch.eye(COUNT)[labels]
    layer = torch.nn.Linear(WIDTH, COUNT)
    layer.weight.data, layer.bias.data = hot.T @ x, torch.zeros(COUNT)
    alpha = 250 * (hot * (x @ texts.T) / hot.sum(dim=0)).sum(dim=0).mean()
    alpha = (alpha * torch.ones(COUNT)).requires_grad_(True)
    rate = 4 * len(x) / torch.linalg.eigvalsh(x.T @ x)[-1]
    rate_alpha = len(x) / (4 * ((x @ texts.T) ** 2).sum(dim=0).max())
    optimizer = torch.optim.SGD(layer.parameters(), float(rate), momentum=0.9)
    best, taken = 0.0, None
    for step in range(60):
        loss = torch.nn.functional.cross_entropy(layer(x) + alpha * (x @ texts.T), labels)
        if not accumulates:
            alpha.grad = None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 10 == 0:
            alpha.data -= rate_alpha * alpha.grad
        logits = (layer(held) + alpha * (held @ texts.T)).detach()
        right = (logits.argmax(dim=1) == truth).float().mean().item()
        if right >= best:
            best, taken = right, (step + 1, logits.numpy(), alpha.detach().numpy().copy())
    assert int(found["epoch"]) == taken[0] > 1
    np.testing.assert_allclose(found["alpha"], taken[2], rtol=1e-4)
    np.testing.assert_allclose(linear_logits(found, held.numpy()), taken[1], rtol=1e-3, atol=1e-2)


def test_coop_s_probe_halves_the_strengths_as_its_code_does(data, classes):
    (found,) = (
        probe.make_method(None, classes, strengths=probe.COOP, rounds=4).fit(data, classes).values()
    )
    x, labels, held, truth = (part[k] for part in data.values() for k in ("inputs", "label"))
    scaler = StandardScaler().fit(x)
    x, held = scaler.transform(x), scaler.transform(held)

    def right(c):
        model = LogisticRegression(C=c, tol=1e-8, max_iter=2000).fit(x, labels)
        return (model.predict(held) == truth).mean()

    peak = max(probe.COOP, key=right)
    left, upper = peak / 10, peak * 10
    for _ in range(4):
        middle = np.sqrt(left * upper)
        taken, left, upper = (
            (upper, middle, upper) if right(left) < right(upper) else (left, left, middle)
        )
    assert float(found["strength"]) == pytest.approx(taken, rel=1e-3)


def test_clip_adapter_is_its_code_in_torch_and_free_of_scale():
    rng = np.random.default_rng(2)
    f, down, up = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((3, 8), (8, 2), (2, 8))
    )
    hidden = torch.relu(torch.tensor(f) @ torch.tensor(down))
    mixed = 0.2 * torch.relu(hidden @ torch.tensor(up)) + 0.8 * torch.tensor(f)
    wanted = (mixed / mixed.norm(dim=-1, keepdim=True)).numpy()
    adapter = {"down": jnp.asarray(down), "up": jnp.asarray(up)}
    for factor in (1.0, 10.0, 0.01):
        np.testing.assert_allclose(
            clip_adapter.adapted(adapter, factor * f, 0.2), wanted, rtol=1e-4, atol=1e-6
        )


def test_without_their_own_part_methods_are_zero_shot(data, classes, backbone):
    x = data["validation"]["inputs"]
    wanted = zero_shot(x, classes)
    for name, options in (
        ("tip", {"ratios": 0.0, "sharpnesses": 5.5}),
        ("gda_few_shot", {"alphas": 0.0}),
    ):
        method, params = fitted(name, data, classes, **options)
        np.testing.assert_allclose(method.predict(params, x, classes), wanted, rtol=1e-6, atol=1e-5)
    method, params = begun("clip_adapter", backbone, data, classes, ratio=0.0)
    np.testing.assert_allclose(method.predict(params, x, classes), wanted, rtol=1e-5, atol=1e-5)
    method, params = begun("tip_f", backbone, data, classes, ratios=(0.0,), sharpnesses=(1.0,))
    np.testing.assert_allclose(method.predict(params, x, classes), wanted, rtol=1e-6, atol=1e-5)
    bare = lp_plus.Probe(jnp.zeros((COUNT, WIDTH)), jnp.zeros(COUNT), jnp.full(COUNT, 100.0))
    logits = linear_logits(bare.head(jnp.asarray(classes.weights)), x)
    np.testing.assert_allclose(logits, 10 * wanted, rtol=1e-5, atol=1e-4)


def answered(name, backbone, data, classes, x):
    if name in CLOSED:
        method, params = fitted(name, data, classes)
    else:
        method, params = begun(name, backbone, data, classes)
    return np.asarray(method.predict(params, x, classes))


@pytest.mark.parametrize("name", [*CLOSED, *TRAINED])
def test_permuted_classes_permute_logits(name, data, classes, backbone):
    order = np.array([2, 0, 3, 1])  # new class k is old class order[k]
    x = data["validation"]["inputs"]
    moved = Classes(tuple(NAMES[k] for k in order), None, classes.weights[order], 10.0)
    renamed = {
        part: {"inputs": rows["inputs"], "label": np.argsort(order)[rows["label"]].astype(np.int32)}
        for part, rows in data.items()
    }
    one, two = (
        answered(name, backbone, *given, x) for given in ((data, classes), (renamed, moved))
    )
    np.testing.assert_allclose(two, one[:, order], rtol=1e-3, atol=1e-3)
    assert np.ptp(one - zero_shot(x, classes)) > 1e-3


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_the_named_group_alone_and_padded_rows_nothing(
    name, data, classes, backbone
):
    method, params = begun(name, backbone, data, classes)
    frozen = {key: params[key] for key in method.constants}
    own = {key: value for key, value in params.items() if key not in frozen}
    assert set(own) == {"clip_adapter": {"adapter"}, "tip_f": {"keys"}}[name]
    batch = {key: jnp.asarray(value[:6]) for key, value in data["source"].items()}

    def slope(rows):
        batch = weigh({"source": rows})
        loss = lambda own: method.loss({**own, **frozen}, batch, jax.random.key(0), 0.0)[0]
        return jax.value_and_grad(loss)(own)

    value, grads = slope(batch | {"mask": jnp.ones(6, bool)})
    assert all(np.any(g) for g in jax.tree.leaves(grads))
    padded = {
        "inputs": jnp.concatenate([batch["inputs"], jnp.full((3, WIDTH), jnp.nan)]),
        "label": jnp.concatenate([batch["label"], jnp.full(3, -1, jnp.int32)]),
        "mask": jnp.arange(9) < 6,
    }
    for one, two in zip(*map(jax.tree.leaves, ((value, grads), slope(padded))), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)


def test_keys_start_as_the_training_free_cache(data, classes, backbone):
    x = data["validation"]["inputs"]
    one, two = (answered(name, backbone, data, classes, x) for name in ("tip", "tip_f"))
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
    # A class with fewer images leaves places that are never near, and train to nothing.
    rows = np.flatnonzero((data["source"]["label"] != 1) | (np.arange(COUNT * SHOTS) < 6))
    fewer = {
        "source": {k: v[rows] for k, v in data["source"].items()},
        "validation": data["validation"],
    }
    one, two = (answered(name, backbone, fewer, classes, x) for name in ("tip", "tip_f"))
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)


def test_parameters_are_as_many_as_published():
    vit = Classes(tuple("abc"), None, np.zeros((3, 512), np.float32), 100.0)
    backbone = Backbone({"image": None}, None, None, {})
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    shapes = lambda method: jax.eval_shape(method.init, jax.random.key(0))
    assert size(shapes(clip_adapter.make_method(backbone, vit))) == 131_072
    found = shapes(tip_f.make_method(backbone, vit, shots=16))
    assert size(found["keys"]) == 3 * 16 * 512


@pytest.mark.parametrize("name", ["tip", "lp_plus", "tip_f"])
def test_what_holds_its_classes_names_no_others(name, data, classes, backbone):
    new = classes._replace(names=("cat", "dog", "owl", "yak"))
    method, params = (
        fitted(name, data, classes) if name in CLOSED else begun(name, backbone, data, classes)
    )
    with pytest.raises(ValueError, match="holds its 4 classes .* cannot name 'yak'"):
        method.predict(params, data["source"]["inputs"], new)


def test_clip_adapter_takes_other_classes_by_their_texts(data, classes, backbone):
    method, params = begun("clip_adapter", backbone, data, classes)
    x, new = data["source"]["inputs"], Classes(("yak", "hen"), None, classes.weights[:2], 5.0)
    known = method.predict(params, x, classes)[:, :2]
    np.testing.assert_allclose(method.predict(params, x, new), known / 2, rtol=1e-5)


REFUSED = [
    (clip_adapter, {"ratio": 1.5}, "ratio is 1.5; give a share of the adapter's output, 0 to 1"),
    (clip_adapter, {"reduction": 0}, "reduction is 0; give a whole number"),
    (tip, {"ratios": (-1.0,)}, "ratios is .* numbers of at least 0"),
    (tip, {"sharpnesses": ("two",)}, "sharpnesses is .* numbers of at least 0"),
    (tip, {"steps": (0, 20)}, "give a pair of positive numbers each"),
    (tip, {"ratios": 1.0, "sharpnesses": 1.0, "steps": (3, 3)}, "leave out one pair of them"),
    (gda_few_shot, {"neighbours": 0, "copies": 2}, "copies=2 has no effect with neighbours=0"),
    (tip_f, {"shots": 0}, "a key for each labelled image of a class; set data.shots"),
    (gda_few_shot, {"alphas": ()}, "alphas is .* numbers of at least 0"),
    (gda_few_shot, {"neighbours": -1}, "neighbours is -1; give a whole number"),
    (lp_plus, {"momentum": 1.0}, "a momentum of 0 to below 1"),
    (probe, {"rounds": -1}, "rounds is -1; give a whole number"),
]


@pytest.mark.parametrize(("module", "options", "words"), REFUSED)
def test_wrong_options_are_refused(module, options, words, classes, backbone):
    with pytest.raises(ValueError, match=words):
        module.make_method(backbone, classes, **options)


@pytest.mark.parametrize("name", [*CLOSED, *TRAINED])
def test_a_single_class_is_refused(name, classes, backbone):
    module, options = (CLOSED | TRAINED)[name]
    one = Classes(("cat",), None, classes.weights[:1], 10.0)
    with pytest.raises(ValueError, match="the only class is 'cat'; give data of two"):
        module.make_method(backbone, one, **options)


@pytest.mark.parametrize("name", ["tip", "gda_few_shot", "lp_plus"])
def test_what_is_chosen_by_validation_images_needs_some(name, data, classes):
    empty = {key: value[:0] for key, value in data["validation"].items()}
    with pytest.raises(ValueError, match="the source has no validation images with labels"):
        fitted(name, data | {"validation": empty}, classes)
    alone = {"source": {k: v[data["source"]["label"] != 2] for k, v in data["source"].items()}}
    with pytest.raises(ValueError, match="no source image of class 'owl'"):
        fitted(name, data | alone, classes)
