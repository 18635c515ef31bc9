"""Classes matched by name: what is kept, refused and said."""

import pickle

import numpy as np
import pytest

from clipjax.data.classes import match_classes, uncut
from clipjax.data.dataset import ArrayDataset, ArraySource, Dataset
from clipjax.data.derived import Subset
from clipjax.errors import ConfigError
from clipjax.study.epochs import training_rows
from clipjax.study.parts import Data


class Shapes(Dataset):
    """A dataset whose domains declare what they are given; each class has two examples."""

    name, skipped = "shapes", ()

    def __init__(self, **declared):
        self.declared = declared
        self.domains = tuple(declared)
        self.classes = tuple(sorted({c for names in declared.values() for c in names}))

    def classes_of(self, domain):
        return tuple(c for c in self.classes if c in self.declared[domain])

    def source(self, domain, split):
        labels = [self.classes.index(c) for c in self.classes_of(domain) for _ in range(2)]
        images = np.array(labels, np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
        return ArraySource(images, labels, classes=self.classes, domain=domain, split=split)


def test_equal_classes_leave_the_dataset_as_it_is():
    dataset = Shapes(photo="abc", art="cba", toy="abc")
    for how in ("closed", "intersection"):
        matched, notes = match_classes(dataset, "photo", "art", ["toy"], how)
        assert matched is dataset and notes == []


def test_a_closed_set_refuses_differences_and_says_which():
    dataset = Shapes(photo="abcd", art="abxyz")
    with pytest.raises(ConfigError) as error:
        match_classes(dataset, "photo", "art", ["art"])
    said = str(error.value)
    assert "2 only in 'photo' (c, d)" in said and "3 only in 'art' (x, y, z)" in said
    assert "data.classes=intersection" in said


def test_an_evaluation_domain_may_lack_classes_but_not_add_any():
    dataset = Shapes(photo="abc", art="abc", toy="ab")
    matched, notes = match_classes(dataset, "photo", "art", ["toy"])
    assert matched is dataset and notes == ["toy has no 1 of the classes: c."]
    dataset = Shapes(photo="abc", art="abc", toy="abz")
    with pytest.raises(ConfigError, match=r"1 only in 'toy' \(z\)"):
        match_classes(dataset, "photo", "art", ["toy"])
    matched, notes = match_classes(dataset, "photo", "art", [])  # toy is not looked at
    assert matched.classes == ("a", "b", "c") and notes == []


def test_the_intersection_keeps_renumbered_examples_of_shared_classes():
    dataset = Shapes(photo="abcd", art="bdx", toy="dy")
    matched, notes = match_classes(dataset, "photo", "art", ["toy"], "intersection")
    assert matched.classes == ("b", "d") and matched.classes_of("toy") == ("d",)
    assert any("2 of 6" in note for note in notes)
    assert any(note.startswith("photo loses 2") and "a, c" in note for note in notes)
    assert any("toy" in note and "b" in note for note in notes)
    for domain in dataset.domains:
        source, whole = matched.source(domain, "train"), dataset.source(domain, "train")
        assert source.classes == matched.classes and source.labels.dtype == np.int32
        for i in range(len(source)):
            example = source[i]
            assert example.label == source.labels[i]
            original = dataset.classes[example.image[0, 0, 0]]
            assert original == matched.classes[example.label]
        names = [source[i].name for i in range(len(source))]
        expected = [
            e.name
            for e in map(whole.__getitem__, range(len(whole)))
            if dataset.classes[e.label] in matched.classes
        ]
        assert names == expected


def test_the_view_pickles_and_names_its_classes():
    dataset = Shapes(photo="abc", art="ab", toy="ac")
    one = match_classes(dataset, "photo", "art", [], "intersection")[0].source("photo", "train")
    other = match_classes(dataset, "photo", "toy", [], "intersection")[0].source("photo", "train")
    again = pickle.loads(pickle.dumps(one))
    assert repr(again) == repr(one) != repr(other)
    assert repr(dataset.source("photo", "train")) in repr(one)
    assert [again[i].name for i in range(len(again))] == [one[i].name for i in range(len(one))]


def test_nothing_in_common_is_refused():
    with pytest.raises(ConfigError, match="share 1 of their classes"):
        match_classes(Shapes(photo="ab", art="bc"), "photo", "art", [], "intersection")
    for how in ("closed", "intersection"):
        with pytest.raises(ConfigError, match="To adapt to images of one class, give them without"):
            match_classes(Shapes(photo="abc", art="b"), "photo", "art", [], how)
    dataset = Shapes(photo="ab", art="ab", toy="yz")
    with pytest.raises(ConfigError, match="'toy' has none"):
        match_classes(dataset, "photo", "art", ["toy"], "intersection")


def test_spelling_is_hinted_at():
    dataset = Shapes(photo=["The_Eiffel_Tower", "cat"], art=["the eiffel tower", "cat"])
    with pytest.raises(ConfigError, match="spelling.*'The_Eiffel_Tower' and 'the eiffel tower'"):
        match_classes(dataset, "photo", "art", [])
    spelt = ["cat", "dog", "alarm_clock"], ["cat", "dog", "Alarm clock"]
    dataset = Shapes(photo=spelt[0], art=spelt[1], toy=["cat", "Dog"])
    matched, notes = match_classes(dataset, "photo", "art", ["toy"], "intersection")
    assert matched.classes == ("cat", "dog")
    for pair in ("art: But for their spelling, 'alarm_clock' and 'Alarm clock'", "'dog' and 'Dog'"):
        assert any(f"{pair} would match: rename one of each." in note for note in notes)


def test_unknown_choices_are_refused():
    dataset = Shapes(photo="ab", art="ab")
    with pytest.raises(ConfigError, match="closed, intersection"):
        match_classes(dataset, "photo", "art", [], "open")
    with pytest.raises(ConfigError, match="photo, art"):
        match_classes(dataset, "photo", "art", ["toy"])


def test_base_and_new_are_halves_in_the_order_of_labels_and_drawn_from_before_the_cut():
    labels = np.random.default_rng(0).integers(0, 5, 60)
    images = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    source = ArraySource(images, labels, classes="vwxyz", domain="d")
    dataset = ArrayDataset({"d": {"train": source}})
    (base, notes), (new, _) = (match_classes(dataset, "d", "d", [], how) for how in ("base", "new"))
    assert base.classes == ("v", "w", "x") and new.classes == ("y", "z")  # ceil(5 / 2) first
    assert notes == ["data.classes=base: 3 of the 5 classes are used, v to x."]
    part = new.source("d", "train")
    np.testing.assert_array_equal(part.labels, labels[labels > 2] - 3)
    assert uncut(base) is dataset and pickle.loads(pickle.dumps(part)).uncut.classes[0] == "v"
    for asked in (
        {"shots": 2},
        {"shots": 3, "shots_rule": "coop"},
        {"fraction": 0.4},
        {"fraction": 0.4, "fraction_how": "uniform"},
    ):
        data = Data(source="d", subset_seed=1, **asked)
        every = training_rows(data, labels, dataset.classes)
        for half in (base, new):
            mine = half.source("d", "train")
            rows = training_rows(data, mine.labels, half.classes, mine.uncut)
            np.testing.assert_array_equal(mine.rows[rows], np.intersect1d(every, mine.rows))
            some = Subset(mine, np.arange(len(mine))[::2])  # some images could not be read
            taken = training_rows(data, some.labels, half.classes, some.uncut)
            assert len(taken) and set(some.uncut.rows[taken]) <= set(mine.rows)


def test_a_small_class_stops_the_half_that_it_is_in_and_no_other():
    labels = np.array([0] * 5 + [1] * 5 + [2] * 5 + [3])
    source = ArraySource(np.zeros((16, 2, 2, 3)), labels, classes="abcd", domain="d")
    dataset, data = ArrayDataset({"d": {"train": source}}), Data(source="d", shots=3)
    base, new = (match_classes(dataset, "d", "d", [], how)[0].source("d", "train")
                 for how in ("base", "new"))  # fmt: skip
    assert len(training_rows(data, base.labels, base.classes, base.uncut)) == 6
    with pytest.raises(ConfigError, match="class 'd' has 1 examples"):
        training_rows(data, new.labels, new.classes, new.uncut)
    with pytest.raises(ConfigError, match="data.classes=new is 1 of 3 classes; at least two"):
        match_classes(Shapes(photo="abc"), "photo", "photo", [], "new")
