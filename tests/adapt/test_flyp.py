"""Prompts that are drawn, and what FLYP needs. Values of its loss are tested in test_cite.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt import finetune
from clipjax.adapt.method import Backbone, Classes, DannModel, Head, compare_classes
from clipjax.errors import ConfigError
from tests.conftest import methods_of
from tests.study.test_study import config_of


@pytest.mark.parametrize(
    "change, words",
    [
        ({"heads": {}}, "flyp compares with prompts; use heads = "),
        ({"denominator": "none"}, "unknown denominator 'none'; known: exclude, negatives, diagon"),
    ],
)
def test_what_it_cannot_do_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        methods_of(config_of("", "tiny", m={"loss": "flyp", "heads": {"text": True}} | change))


def test_one_prompt_of_each_class_is_drawn_in_every_step():
    table = jnp.eye(6)  # three prompts of two classes, each text a direction of its own
    encode = {"image": lambda params, x, rng: x, "text": lambda params, tokens: table[tokens[:, 0]]}
    backbone = Backbone(encode, lambda params: 1.0, None, {})
    classes = Classes(("a", "b"), np.arange(6).reshape(2, 3, 1), None, 1.0)
    source = {"inputs": table[:1], "label": jnp.array([0])}
    seen = jax.jit(lambda key: compare_classes(backbone, classes, "class")({}, source, key).text)
    drawn = np.array([seen(jax.random.key(i)) for i in range(60)])
    np.testing.assert_array_equal(drawn.sum(axis=2), 1)
    which = drawn.argmax(axis=2)  # [60, classes]
    assert {(a, b - 3) for a, b in which} == {(a, b) for a in range(3) for b in range(3)}
    whole = np.full(3, 3**-0.5)
    for templates, key in (("all", jax.random.key(0)), ("class", None)):  # None: no training
        text = compare_classes(backbone, classes, templates)({}, source, key).text
        np.testing.assert_allclose(text, [[*whole, 0, 0, 0], [0, 0, 0, *whole]], rtol=1e-6)
    head = Head(None, DannModel(None, None, None), None, None, towers=("text",))
    made = finetune.make_method(backbone, classes, head=head, templates="class")
    value = lambda key: float(made.loss({}, {"source": source}, key, 0.0)[0])
    # One text of the image's class is the image itself; the others are at right angles to it.
    wanted = {round(float(np.log(1 + np.exp(-hit))), 4) for hit in (0.0, 1.0)}
    assert {round(value(jax.random.key(i)), 4) for i in range(20)} == wanted


@pytest.mark.parametrize(
    "change, words",
    [
        ({"templates": "some"}, "unknown templates 'some'; known: all, class"),
        ({"heads": {}}, "templates=class is of a text classifier; use heads ="),
        ({}, "draws one of several prompts, and 'a {}.' is one; leave it out"),
    ],
)
def test_prompts_that_cannot_be_drawn_are_refused(change, words):
    entry = {"loss": "finetune", "heads": {"text": True}, "templates": "class"} | change
    config = config_of("", "tiny", m=entry)
    config.prompts = "a {}."
    with pytest.raises(ConfigError, match=words):
        methods_of(config)
    config.prompts = "drawings"
    if not change:
        assert methods_of(config)["m"].phases[0].options["templates"] == "class"
