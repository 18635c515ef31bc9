"""Warnings about parts, classes and epochs of few images."""

import types

import numpy as np
import pytest

from clipjax.errors import ConfigError, DataError
from clipjax.study import run
from clipjax.study.coverage import short_epochs, thin_classes
from clipjax.study.methods import build_methods
from clipjax.study.needs import check_each_class
from clipjax.study.parts import Data
from clipjax.study.plan import matched_data, prepare
from tests.conftest import parsed
from tests.study.test_study import config_of

CLASSES = ("ant", "bee", "cat")


def labels(*counts):
    return np.repeat(range(len(counts)), counts)


def test_parts_that_lack_a_class_and_classes_of_few_images_are_named():
    parts = {
        ("photo", "train"): labels(20, 20, 20),
        ("photo", "val"): labels(5, 4, 2),
        ("photo", "test"): labels(9, 0, 0),
        ("scan", "val"): labels(5, 4, 2),
        ("scan", "test"): np.full(7, -1),  # no labels: nothing is known
        ("scan", "train"): np.append(labels(0, 0, 5), [-1, -1]),
    }
    lacking, few = thin_classes(parts, CLASSES)
    assert "of 2 of 3 classes (bee, cat) in photo/test" in lacking
    assert "of 2 of 3 classes (ant, bee) in scan/train" in lacking
    assert "fewer than 5 images of 2 of 3 classes (of cat 2) in photo/val, scan/val: " in few
    assert "photo/train" not in lacking + few and "scan/test" not in lacking + few
    assert thin_classes({("photo", "train"): labels(5, 5, 5)}, CLASSES) == []


def test_many_ways_are_told_in_few_words():
    parts = {(f"d{i}", "val"): labels(9, 9, 1 + i % 4, *[9] * (i % 5)) for i in range(40)}
    (few,) = thin_classes(parts, [*CLASSES, "dog", "eel", "fox", "gnu"])[1:]
    assert len(few) < 400 and "more parts" in few


@pytest.mark.parametrize(
    ("source", "target", "epoch", "steps"),
    [(448, 448, "source", 7), (448, 90, "target", 2), (9000, 448, "longest", 0), (640, 9, 3, 3)],
)
def test_epochs_of_fewer_than_ten_steps_are_told(source, target, epoch, steps):
    data = Data(epoch=epoch)
    config = types.SimpleNamespace(name="dann", batch_size=64, episodes=None)
    dann = types.SimpleNamespace(trains=True, data=data, config=config)
    closed = types.SimpleNamespace(trains=False, data=data, config=config)
    said = short_epochs([closed, dann], {data: (source, target)})
    assert len(said) == (steps > 0)
    if steps:
        assert said[0].startswith(f"an epoch of dann has {steps} steps ({source:,} labelled")
        assert "fewer than 10" in said[0]


def test_covariances_of_fewer_images_than_features_are_told(photos, wee_clip):
    gda, plain = {"loss": "gda"}, {"loss": "logistic", "match": "none"}
    aligned = {"loss": "finetune", "heads": {}, "align": "coral"}
    plan = prepare(parsed(config_of(photos, wee_clip, gda=gda, plain=plain, aligned=aligned)))
    count, width = len(plan.dataset.source("sketch", "train")), plan.clip_config.projection_dim
    assert count <= width
    told = f"sketch has {count} training images, no more than the {width} features: its covariance"
    assert [note for note in plan.notes if "covariance" in note] == [
        f"{told} is regularised (gda, aligned)."
    ]


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"loss": "gda"}, "a Gaussian"),
        ({"loss": "blend", "kind": "gda"}, "a Gaussian"),
        ({"loss": "prototypes"}, "a prototype"),
        ({"loss": "blend"}, ""),
    ],
)
def test_a_class_without_training_images_is_refused_before_any_is_encoded(
    photos, wee_clip, tmp_path, entry, what
):
    rows = lambda domain, split, names: [f"{domain}/{k}/{i}.png {k}" for k in names for i in split]
    for domain, names in (("real", ("blue", "green")), ("sketch", ("blue", "green", "red"))):
        (tmp_path / f"{domain}_train.txt").write_text("\n".join(rows(domain, range(4), names)))
        held = rows(domain, range(4, 6), ("blue", "green", "red"))
        (tmp_path / f"{domain}_test.txt").write_text("\n".join(held))
    config = config_of(photos, wee_clip, it=entry)
    config.data.name, config.data.lists = "lists", str(tmp_path)
    if not what:
        dataset, _ = matched_data(study := parsed(config))
        check_each_class(dataset, build_methods(study, tuple(dataset.classes)).values())
        return
    told = f"methods.it: no source image of class 'red': {what} needs one of each class"
    with pytest.raises(ConfigError, match=told):
        prepare(parsed(config))


def test_data_that_a_closed_form_does_not_fit_are_one_sentence(photos, wee_clip, tmp_path):
    config = config_of(photos, wee_clip, it={"loss": "blend"})
    config.data.shots = 1
    with pytest.raises(DataError, match="^methods.it: 3 source examples for 4 folds; give more"):
        run(parsed(config), tmp_path / "run", pages=False)
