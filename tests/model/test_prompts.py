"""Prompts and class names as a person would write them."""

import json

import pytest

from clipjax.errors import ConfigError
from clipjax.model.prompts import PROMPTS, clean_class_name, fill_prompts, read_class_names


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
