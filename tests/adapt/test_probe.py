"""The linear probe against scikit-learn, and heads that start at random."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from clipjax.adapt import probe
from clipjax.adapt.align import aligned
from clipjax.adapt.method import Classes, Method
from clipjax.errors import ConfigError
from clipjax.model.heads import Heads, init_heads
from clipjax.study import Study, parse
from clipjax.study.methods import build_methods

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, 6))

    def part(count):
        label = np.arange(count) % 3
        x = means[label] + 1.5 * rng.normal(size=(count, 6))
        return {"inputs": x.astype(np.float32), "label": label.astype(np.int32)}

    return {"source": part(60), "validation": part(45), "target": {"inputs": part(30)["inputs"]}}


def test_validation_images_choose_the_strength_as_scikit_learn_would(data):
    classes = Classes(NAMES, None, np.ones((3, 6), np.float32), 1.0)
    method = probe.make_method(None, classes)
    assert method.reads == ("source", "validation")
    (head,) = method.fit(data, classes).values()
    x, y = data["source"].values()
    held, truth = data["validation"].values()
    scaler = StandardScaler().fit(x)
    found = []
    for c in probe.STRENGTHS:
        model = LogisticRegression(C=c, tol=1e-8, max_iter=1000).fit(scaler.transform(x), y)
        share = model.predict_proba(scaler.transform(held))
        loss = -np.log(share[np.arange(len(truth)), truth]).mean()
        found.append(((share.argmax(axis=1) == truth).mean(), -loss, c, share))
    right, _, strength, share = max(found, key=lambda each: each[:2])
    assert len({each[0] for each in found}) > 1 and float(head["strength"]) == pytest.approx(
        strength
    )
    given = jax.nn.softmax(method.predict(head, held, classes))
    np.testing.assert_allclose(given, share, atol=2e-3)
    # Behind a domain's map validation images are the source's.
    (mapped,) = aligned(method, "standardise").fit(data, classes).values()
    assert float(mapped["strength"]) == pytest.approx(strength)


@pytest.mark.parametrize("strengths", [(), (0.0, 1.0), ("one",)])
def test_strengths_that_are_none_are_refused(strengths):
    with pytest.raises(ValueError, match="strengths is .*; give positive numbers"):
        probe.make_method(None, Classes(NAMES, None, None, 1.0), strengths=strengths)


def test_what_chooses_by_validation_images_needs_some(data):
    classes = Classes(NAMES, None, np.ones((3, 6), np.float32), 1.0)
    with pytest.raises(ValueError, match="has no 'validation'"):
        probe.make_method(None, classes).fit({"source": data["source"]}, classes)


def test_a_linear_head_starts_at_random_where_that_is_asked_for():
    texts = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    made = lambda **more: init_heads(Heads(3, **more), jax.random.key(0), texts[:1], texts, 2.0)
    kernel = lambda **more: np.asarray(made(**more)["classifier"]["layer_0"]["kernel"])
    np.testing.assert_allclose(kernel(), 2 * texts.T)
    assert np.abs(kernel(start="random") - 2 * texts.T).max() > 0.1
    entry = {"loss": "finetune", "heads": {"start": "zeros"}}
    with pytest.raises(ConfigError, match="start is 'zeros'; give zero_shot, random or logistic"):
        build_methods(Study(methods={"m": entry}, stages=("m",)), NAMES)
    entry["heads"] = {"start": "random", "text": True}
    with pytest.raises(ConfigError, match="text=True starts as the text tower is"):
        build_methods(Study(methods={"m": entry}, stages=("m",)), NAMES)


def test_a_method_starts_as_the_probe_and_keeps_the_rest(data):
    classes = Classes(NAMES, None, np.ones((3, 6), np.float32), 1.0)
    made = Method(
        init=None, loss=None, predict=None, start=lambda data, classes, own: own | {"x": 1}
    )
    method = probe.from_logistic(made)
    assert (method.reads, method.start_reads) == (("source",), ("validation",))
    found = method.start(data, classes, {"discriminator": 2, "classifier": 3})
    (head,) = probe.make_method(None, classes).fit(data, classes).values()
    assert (found.pop("discriminator"), found.pop("x")) == (2, 1)
    wanted = {"classifier": head["classifier"]}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, wanted)


@pytest.mark.parametrize(
    "more, words",
    [
        ({"heads": {"start": "logistic", "adapter": (4,)}}, "'logistic' is of a linear head"),
        ({"heads": {"start": "logistic", "class_bias": False}}, "no adapter, .* class_bias"),
        ({"heads": {"start": "logistic", "text": True}}, "leave start out"),
        ({"heads": {"start": "logistic"}, "wise": (0.5,)}, "wise draws to zero-shot, where it"),
        (
            {"loss": "maml", "heads": {"start": "logistic"}, "episodes": {"way": 2}},
            "fits the classes of all images, and an episode has its own; leave start out",
        ),
    ],
)
def test_a_logistic_start_where_there_can_be_none_is_refused(more, words):
    entry = {"loss": "finetune"} | more
    with pytest.raises(ConfigError, match=words):
        build_methods(parse({"methods": {"m": entry}, "stages": ("m",)}), NAMES)
