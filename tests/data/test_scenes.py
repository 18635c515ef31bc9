"""Scenes of drawings: a pure function of seed, split and number; what masks say is there."""

import csv

import numpy as np
import pytest

from clipjax.data.masks import mixed
from clipjax.data.scenes import CLASSES, STYLES, TARGETS, SceneDataset, Scenes, _masks, _objects
from clipjax.data.weather import CONDITIONS
from clipjax.errors import ConfigError
from clipjax.io import ASSETS


def test_a_scene_is_made_alike_again_and_its_weather_moves_no_mask():
    clear = Scenes("val", 3)
    again = Scenes("val", 9)
    for i in range(3):
        for key in ("image", "mask", "name"):
            assert np.array_equal(getattr(clear[i], key), getattr(again[i], key))
    assert not np.array_equal(clear[0].image, clear[1].image)
    assert not np.array_equal(clear[0].image, Scenes("val", 3, seed=1)[0].image)
    assert not np.array_equal(clear[0].image, Scenes("test", 3)[0].image)
    for condition in CONDITIONS:
        there = Scenes("val", 3, condition)[0]
        assert np.array_equal(there.mask, clear[0].mask)
        assert (condition == "clear") == np.array_equal(there.image, clear[0].image)
    assert set(TARGETS) < set(CONDITIONS)
    with pytest.raises(IndexError):
        clear[3]


def test_conditions_look_as_they_are_called():
    mean = lambda c: np.mean([Scenes("val", 12, c)[i].image for i in range(12)])
    spread = lambda c: np.mean([Scenes("val", 12, c)[i].image.std() for i in range(12)])
    assert mean("night") < 0.4 * mean("clear")
    assert spread("fog") < 0.7 * spread("clear") and mean("fog") > mean("clear")
    assert mean("snow") > mean("clear") > mean("rain")


def test_every_class_is_there_and_objects_of_a_test_scene_are_never_trained_on():
    with open(ASSETS / "emoji" / "identities.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = {split: sum(row["split"] == split for row in rows) for split in ("train", "test")}
    for split, count in counts.items():
        assert len(_objects("render", split).images) == count
        shares = np.bincount(
            np.concatenate([Scenes(split, 40)[i].mask.ravel() for i in range(40)]),
            minlength=len(CLASSES),
        )
        assert len(shares) == len(CLASSES) and shares.min() > 0 and shares.argmax() == 0


def test_masks_are_the_drawings_and_fit_them_better_than_others():
    masks = _masks(787)
    assert masks.shape == (4, 787, 64, 64)
    assert 0.2 < masks.mean() < 0.8
    for style in STYLES:
        objects = _objects(style, "val")
        ink = (objects.images.astype(int).min(axis=3) < 235).astype(float)
        cover = lambda m, ink=ink: (ink * m).sum() / ink.sum()
        # What is not white lies inside its own mask, and not inside another's.
        assert cover(objects.masks) > 0.93
        assert cover(np.roll(objects.masks, 1, axis=0)) < 0.85


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("all", 1), "no split 'all'; known: train, val, test"),
        (("val", 1, "hail"), "no condition 'hail'; known: clear, fog"),
        (("val", 1, "fog", "sketch"), "no style 'sketch'; known: render, flat, clipart, cartoon"),
        (("val", 0), "0 scenes are none"),
    ],
)
def test_scenes_that_cannot_be_made_are_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        Scenes(*given)


def test_scenes_are_a_dataset_of_domains_and_splits():
    scenes = SceneDataset(train=4, test=3)
    assert scenes.domains == ("clear", *TARGETS, "tinted") and scenes.classes == CLASSES
    fog = scenes.source("fog", "test")
    assert (fog.domain, fog.split, fog.classes, len(fog)) == ("fog", "test", CLASSES, 3)
    assert np.array_equal(fog[1].image, Scenes("test", 3, "fog")[1].image)
    assert fog.name_of(1) == fog[1].name
    assert scenes.source("tinted", "train").style == "clipart"
    with pytest.raises(ConfigError, match="'tinted' of scenes has no test split with masks"):
        scenes.source("tinted", "test")
    with pytest.raises(ConfigError, match="no domain 'hail'"):
        scenes.source("hail", "test")


def test_mixtures_take_their_shares_by_images_and_the_fewer_are_among_the_more():
    scenes = SceneDataset(train=40)
    sources = [scenes.source(domain, "train") for domain in ("clear", "tinted")]
    whole = mixed(sources)
    assert len(whole) == 80 and [len(x) for x in whole.rows] == [40, 40]
    assert [whole.name_of(i) for i in (0, 39, 40)] == [
        sources[0].name_of(0), sources[0].name_of(39), sources[1].name_of(0)
    ]  # fmt: skip
    part = mixed(sources, (0.75, 0.25), 20)
    assert [len(x) for x in part.rows] == [15, 5]
    assert [part.domain_of(i) for i in (14, 15)] == ["clear", "tinted"]
    assert np.array_equal(part[15].image, sources[1][part.rows[1][0]].image)
    more = mixed(sources, (0.75, 0.25), 40)
    for few, many in zip(part.rows, more.rows, strict=True):
        assert set(few) <= set(many)
    again, other = (mixed(sources, (0.75, 0.25), 20, seed) for seed in (0, 1))
    assert repr(again) == repr(part) != repr(other)
    assert [len(x) for x in mixed(sources, (0.25, 0.75)).rows] == [13, 40]  # as many as there are
    assert [len(x) for x in mixed(sources, (1.0, 0.0), 30).rows] == [30, 0]
    thirds = mixed([*sources, sources[0]], (1 / 3, 1 / 3, 1 / 3), 10)
    assert [len(x) for x in thirds.rows] == [3, 4, 3]
    with pytest.raises(ConfigError, match="0.75 of 80 training images are 60 of 'clear', which"):
        mixed(sources, (0.75, 0.25), 80)
    with pytest.raises(ConfigError, match="data.train=81 asks for more images than the 80 of"):
        mixed(sources, (), 81)
    for shares in ((0.5, 0.6), (-0.5, 1.5), (1.0,)):
        with pytest.raises(ConfigError, match="give each of 'clear' and 'tinted' one, together 1"):
            mixed(sources, shares, 10)
