"""Prompts and class names as a person would write them."""

import json

import numpy as np
import pytest

from clipjax import load_tokenizer
from clipjax.errors import CheckpointError, ConfigError
from clipjax.model.prompts import PROMPTS, clean_class_name, fill_prompts, read_class_names
from clipjax.model.text import check_class_weights, class_tokens, confusable


def test_every_set_has_a_place_for_the_name_and_no_text_twice():
    for name, prompts in PROMPTS.items():
        assert all(p.count("{}") == 1 for p in prompts), name
        assert len(set(prompts)) == len(prompts), name
    assert len(PROMPTS["ensemble"]) == 80


@pytest.mark.parametrize(
    "raw, clean",
    [
        ("The_Eiffel_Tower", "the Eiffel Tower"),
        ("The_Great_Wall_of_China", "the Great Wall of China"),
        ("aircraft_carrier", "aircraft carrier"),
        ("t-shirt", "t-shirt"),
        ("Theatre", "Theatre"),
        (" hot__air  balloon ", "hot air balloon"),
    ],
)
def test_class_names_are_cleaned(raw, clean):
    assert clean_class_name(raw) == clean


def test_a_name_with_its_own_article_replaces_the_templates():
    assert fill_prompts("The_Mona_Lisa", ["a photo of a {}.", "many {}"]) == [
        "a photo of the Mona Lisa.",
        "many the Mona Lisa",
    ]
    assert fill_prompts("zebra", "sketch")[0] == "a sketch of a zebra."


def test_prompts_without_a_place_for_the_name_are_refused():
    with pytest.raises(ConfigError, match="drawings"):
        fill_prompts("cat", "a photo")
    with pytest.raises(ConfigError, match="empty"):
        fill_prompts("cat", [])


def test_an_override_file_is_checked(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"bat": "flying bat"}))
    assert read_class_names(path, ["bat", "cat"]) == {"bat": "flying bat"}
    with pytest.raises(ConfigError, match="bat; it has cat, dog"):
        read_class_names(path, ["cat", "dog"])
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="must hold"):
        read_class_names(path, ["cat"])
    with pytest.raises(ConfigError, match="No such file"):
        read_class_names(tmp_path / "nothing", ["cat"])
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"x0, x1, x10, .*\.\.\.; it has cat"):
        path.write_text(json.dumps({f"x{i}": "x" for i in range(5000)}))
        read_class_names(path, ["cat"])


@pytest.mark.parametrize("name", ["", "_", " __ ", "\t\u3000"])
def test_a_class_without_a_name_is_refused(name):
    with pytest.raises(ConfigError, match="leaves nothing to put into a prompt"):
        fill_prompts(name, "simple")


LONG = "a photo of a " + "very " * 20


@pytest.mark.parametrize(
    "names, prompts, said",
    [
        (["alarm_clock", "cat", "alarm clock"], "simple", ["'alarm_clock' and 'alarm clock'"]),
        (["Cat", "cat", "CAT", "dog"], "ensemble", ["'Cat', 'cat' and 'CAT'"]),
        ([LONG + "cat", LONG + "dog", "fish"], "name", [f"{LONG + 'cat'!r} and {LONG + 'dog'!r}"]),
        (["cat", "dog"], ["{}", LONG + "{}"], ["(1 of 2 prompts do)"]),
        (["cat", "dog", "t-shirt", "The_Mona_Lisa"], "ensemble", []),
        (["\U0001f600", "\U0001f601", "!", "?"], "simple", []),
        (["cat"], "simple", []),
        ([f"{c}{i}" for i in range(9) for c in "aA"], "name", ["and 4 more such groups"]),
    ],
)
def test_classes_that_prompts_cannot_tell_apart_are_named(names, prompts, said):
    tokens = class_tokens(load_tokenizer("tiny"), names, prompts)
    assert tokens.shape == (len(names), len(fill_prompts("x", prompts)), 16)
    notes = confusable(tokens, names, fill_prompts(names[0], prompts))
    assert len(notes) == len(said) and all(map(str.__contains__, notes, said)), notes


@pytest.mark.parametrize("names, prompts", [(["cat", "dog"], LONG + "{}"), (["A", "a"], "simple")])
def test_prompts_that_are_the_same_for_all_classes_are_refused(names, prompts):
    tokens = class_tokens(load_tokenizer("tiny"), names, prompts)
    with pytest.raises(ConfigError, match="of all 2 classes are the same 16 tokens"):
        confusable(tokens, names, fill_prompts(names[0], prompts))


def test_class_weights_that_tell_nothing_apart_are_refused():
    weights = np.eye(3, dtype=np.float32)
    check_class_weights(weights, "m")
    check_class_weights(weights[:1], "m")  # of a single class
    with pytest.raises(CheckpointError, match="all 3 classes one embedding"):
        check_class_weights(weights[[0, 0, 0]], "m")
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        check_class_weights(np.where(weights > 0, np.nan, weights), "m")
