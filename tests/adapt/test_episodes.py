"""Prototypes, prototypical networks and MAML against their papers' arithmetic and PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt import maml, protonet, prototypes
from clipjax.adapt.align import aligned
from clipjax.adapt.episodes import MEMORY, keep_support
from clipjax.adapt.linear import linear_logits
from clipjax.adapt.method import Backbone, Classes
from clipjax.data.loading.sampler import Episodes as Tasks
from clipjax.evaluate.episodes import accuracies, interval
from clipjax.model.backbone import make_head
from clipjax.model.heads import Heads
from clipjax.study.training import Episodes

WIDTH, SIZES = 5, Episodes(way=3, shot=2, query=4, tasks=2)
NAMES = ("a", "b", "c", "d")


def made(module, heads=None, classes=NAMES, sizes=SIZES, **options):
    encode = {"image": lambda params, x, rng=None: x}
    backbone = Backbone(encode, None, None, {}, frozenset({"image"}))
    texts = Classes(classes, None, np.ones((len(classes), WIDTH), np.float32), 10.0)
    if heads is not None:
        options["head"] = make_head(Heads(len(classes), **heads), backbone, texts)
        options["episodes"] = sizes
    return module.make_method(backbone, texts, **options), texts


def batch_of(seed=0, sizes=SIZES):
    rng = np.random.default_rng(seed)
    rows = lambda n: {
        "inputs": jnp.asarray(rng.normal(size=(sizes.tasks * sizes.way * n, WIDTH)), jnp.float32)
    }
    return {"support": rows(sizes.shot), "source": rows(sizes.query)}


def test_prototypes_are_the_softmax_of_squared_distances():
    support = jnp.array([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [-0.6, 0.8]]])
    means = prototypes.set_means(support)
    np.testing.assert_allclose(means, [[0.8, 0.4], [-0.3, 0.9]], atol=1e-6)
    query = jnp.array([[0.8, 0.6]])
    logits = linear_logits(prototypes.prototype_head(means), query)
    np.testing.assert_allclose(logits, [[0.96, -0.30]], atol=1e-6)
    apart = jnp.sum((query[:, None] - means) ** 2, axis=-1)
    np.testing.assert_allclose(apart, [[0.04, 1.30]], atol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(logits), jax.nn.softmax(-apart), atol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(logits)[0, 0], 0.779026, atol=1e-6)
    padded = jnp.concatenate([support, jnp.full((2, 1, 2), jnp.nan)], axis=1)
    weight = jnp.array([[1.0, 1.0, 0.0]] * 2)
    np.testing.assert_allclose(prototypes.set_means(padded, weight), means, atol=1e-6)


def test_the_closed_form_is_the_class_means_and_refuses_an_empty_class():
    method, texts = made(prototypes)
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(20, WIDTH)).astype(np.float32), np.arange(20) % 4
    data = {"source": {"inputs": x, "label": label}}
    (head,) = method.fit(data, texts).values()
    means = np.stack([x[label == k].mean(axis=0) for k in range(4)])
    wanted = -10.0 * ((x[:, None] - means) ** 2).sum(axis=-1)
    given = method.predict(head, x, texts)
    np.testing.assert_allclose(jax.nn.softmax(given), jax.nn.softmax(wanted), atol=1e-4)
    task = method.episode(head, x[:6].reshape(2, 3, WIDTH), x)
    assert task.shape == (20, 2)  # of other classes than its own
    with pytest.raises(ValueError, match="no source image of class 'd': a prototype needs one"):
        method.fit({"source": {"inputs": x, "label": np.arange(20) % 3}}, texts)


def test_a_step_of_prototypical_networks_is_the_papers_loss_of_each_task():
    method, texts = made(protonet, {"adapter": (6,)})
    own, batch = method.init(jax.random.key(0)), batch_of()
    assert own.keys() == {"adapter"}
    value, _ = jax.jit(method.loss)(own, batch, None, 0.0)
    seen = {k: np.asarray(method.features(own, batch[k]["inputs"], None)) for k in batch}
    losses = []
    for t in range(2):
        means = seen["support"].reshape(2, 3, 2, 6)[t].mean(axis=1)
        for row, query in enumerate(seen["source"].reshape(2, 12, 6)[t]):
            apart = ((query - means) ** 2).sum(axis=1)
            losses.append(apart[row // 4] + np.log(np.exp(-apart).sum()))
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
    # It answers for all classes by the means of those that it keeps.
    data = {"source": {"inputs": batch["source"]["inputs"], "label": jnp.arange(24) % 4}}
    params = method.start(data, texts, own)
    means = np.stack([seen["source"][k::4].mean(axis=0) for k in range(4)])
    apart = ((seen["support"][:, None] - means) ** 2).sum(axis=-1)
    given = method.predict(params, batch["support"]["inputs"], texts)
    np.testing.assert_allclose(jax.nn.softmax(given), jax.nn.softmax(-apart), atol=1e-5)
    # A class without source images, whose mean would be the origin, is no answer.
    data["source"]["label"] = data["source"]["label"] % 3
    few = jax.nn.softmax(
        method.predict(method.start(data, texts, own), 0 * batch["support"]["inputs"], texts)
    )
    assert (few[:, 3] == 0).all() and np.isfinite(few).all() and (few[:, :3] > 0).any()


def test_what_is_kept_of_each_class_is_padded():
    x = jnp.arange(12.0).reshape(6, 2)
    kept = keep_support({"source": {"inputs": x, "label": jnp.array([2, 0, 2, 2, 0, 2])}}, 3, 3)
    np.testing.assert_array_equal(kept["weight"], [[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(kept["inputs"][0], [[2, 3], [8, 9], [0, 0]])
    np.testing.assert_array_equal(kept["inputs"][2], [[0, 1], [4, 5], [6, 7]])


@pytest.mark.parametrize(
    ("loss", "first", "second"),
    [(lambda t: (t - 1) ** 2 / 2, 1.9, 1.71), (lambda t: t**4 / 4, 1.2, -0.24)],
)
def test_first_and_second_order_of_known_losses(loss, first, second):
    def outer(theta, first_order):
        moved = maml.inner_steps(loss, theta, steps=1, rate=0.1, first_order=first_order)
        return moved**2 / 2

    for first_order, wanted in ((True, first), (False, second)):
        slope = jax.grad(outer)(jnp.float32(2.0), first_order)
        np.testing.assert_allclose(slope, wanted, rtol=1e-5)


def test_second_order_is_that_of_finite_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        a, x, y = (jnp.asarray(rng.normal(size=s)) for s in ((4, 3), (6, 4), (6, 3)))
        inner = lambda w: jnp.mean((jnp.tanh(x @ w) - y) ** 2)
        outer = jax.jit(lambda w: jnp.sum(jnp.sin(maml.inner_steps(inner, w, steps=3, rate=0.5))))
        slope = jax.jit(jax.grad(outer))(a)
        along, small = jnp.asarray(rng.normal(size=(4, 3))), 1e-5
        wanted = (outer(a + small * along) - outer(a - small * along)) / (2 * small)
        np.testing.assert_allclose(jnp.sum(slope * along), wanted, rtol=1e-7)


@pytest.mark.parametrize("inner", maml.INNER)
@pytest.mark.parametrize("first_order", [False, True])
def test_maml_is_that_unrolled_in_torch(inner, first_order):
    torch = pytest.importorskip("torch", reason='needs PyTorch: pip install -e ".[parity]"')
    options = {"inner": inner, "steps": 2, "rate": 0.3, "first_order": first_order}
    method, _ = made(maml, {"adapter": (6,)}, **options)
    own, batch = method.init(jax.random.key(1)), batch_of(1)
    differentiate = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    (value, _), slopes = differentiate(own, batch, None, 0.0)

    names = [("adapter", "kernel"), ("adapter", "bias"), ("classifier", "kernel")]
    names.append(("classifier", "bias"))
    leaves = [torch.tensor(np.asarray(own[p]["layer_0"][n]), requires_grad=True) for p, n in names]
    forward = lambda w, x: torch.relu(x @ w[0] + w[1]) @ w[2] + w[3]
    entropy = torch.nn.functional.cross_entropy
    rows = lambda part: torch.tensor(np.asarray(batch[part]["inputs"])).reshape(2, -1, WIDTH)
    losses = []
    for support, query in zip(rows("support"), rows("source"), strict=True):
        now, moving = list(leaves), range(4) if inner == "all" else (2, 3)
        for _ in range(2):
            loss = entropy(forward(now, support), torch.arange(3).repeat_interleave(2))
            found = torch.autograd.grad(loss, [now[i] for i in moving], create_graph=True)
            for i, slope in zip(moving, found, strict=True):
                now[i] = now[i] - 0.3 * (slope.detach() if first_order else slope)
        losses.append(entropy(forward(now, query), torch.arange(3).repeat_interleave(4)))
    mean = sum(losses) / 2
    np.testing.assert_allclose(value, mean.item(), rtol=1e-5)
    for (part, name), wanted in zip(names, torch.autograd.grad(mean, leaves), strict=True):
        np.testing.assert_allclose(slopes[part]["layer_0"][name], wanted, rtol=1e-3, atol=1e-6)


def test_maml_adapts_to_tasks_of_any_number_of_classes_also_through_a_domains_map():
    method, texts = made(maml, {"adapter": (6,)}, steps=20, rate=0.5)
    rng = np.random.default_rng(0)
    means = 3 * rng.normal(size=(4, WIDTH))
    x = (means[:, None] + 0.1 * rng.normal(size=(4, 6, WIDTH))).astype(np.float32)
    rows, label = x.reshape(-1, WIDTH), np.repeat(np.arange(4), 6)
    data = {"source": {"inputs": rows, "label": label}, "target": {"inputs": rows + 1}}
    for each in (method, aligned(method, "standardise")):
        own = each.start(data, texts, each.init(jax.random.key(0)))
        assert {MEMORY} <= set(each.constants)
        answers = jnp.argmax(jax.jit(each.episode)(own, x[:, :2], rows), axis=-1)
        assert (answers == label).mean() > 0.9  # 4 classes, with 3 outputs learned
    own = method.start(data, texts, method.init(jax.random.key(0)))
    assert (jnp.argmax(method.predict(own, rows, texts), axis=-1) == label).mean() > 0.9


@pytest.mark.parametrize(
    ("module", "heads", "options", "words"),
    [
        (protonet, {}, {}, "without an adapter nothing trains by episodes"),
        (protonet, {"adapter": (4,)}, {"temperature": -1.0}, "temperature is -1.0"),
        (protonet, {"adapter": (4,)}, {"memory": 0}, "memory is 0; give a whole number"),
        (maml, {"classifier": (4,)}, {}, "the class head must be linear"),
        (maml, {"members": 2}, {}, "the class head must be linear"),
        (maml, {"text": True}, {}, "the class head must be linear"),
        (maml, {}, {"inner": "heads"}, "inner is 'heads'; known: classifier, all"),
        (maml, {}, {"steps": 0}, "steps is 0"),
        (maml, {}, {"rate": 0.0}, "rate is 0.0; give a step size"),
    ],
)
def test_what_cannot_learn_from_episodes_is_refused(module, heads, options, words):
    with pytest.raises(ValueError, match=words):
        made(module, heads, **options)


def test_a_batch_of_other_episodes_is_refused():
    method, _ = made(protonet, {"adapter": (6,)})
    batch = batch_of(sizes=dataclasses.replace(SIZES, tasks=1))
    with pytest.raises(ValueError, match=r"'support'\] has 6 rows; episodes of 2 x 3 classes x 2"):
        method.loss(method.init(jax.random.key(0)), batch, None, 0.0)


def test_judged_episodes_are_of_the_classes_left_and_have_an_interval():
    rng = np.random.default_rng(0)
    label = jnp.asarray(np.repeat(np.arange(4), 9), jnp.int32)
    x = jnp.asarray(rng.normal(size=(36, WIDTH)), jnp.float32)
    tasks = Tasks(2, 1, 3, 50, 4, left_out=(1, 3))

    def told(params, support, inputs, ids):  # right exactly if the classes are 0 and 2
        right = jnp.all(jnp.isin(ids, jnp.array([0, 2])))
        wanted = jnp.where(right, jnp.eye(2), 1 - jnp.eye(2))
        return jnp.repeat(wanted, 3, axis=0)

    found = accuracies(told, (), x, label, jax.random.key(0), tasks)
    assert found.shape == (50,) and (found == 1).all()
    near = lambda params, support, inputs, ids: inputs @ support[:, 0].T
    found = np.asarray(accuracies(near, (), x, label, jax.random.key(0), tasks))
    assert len(set(found)) > 3
    assert interval(found)[1] == pytest.approx(1.96 * found.std(ddof=1) / 50**0.5, abs=1e-6)
