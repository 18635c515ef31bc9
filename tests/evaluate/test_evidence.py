"""Evidence: hand-worked confusions, scikit-learn's numbers, maps that repeat."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from clipjax.data.unlabelled import NO_LABEL
from clipjax.evaluate.metrics import calibration_error
from clipjax.evaluate.report import tsne
from clipjax.evaluate.report.answers import confusion, reliability
from clipjax.evaluate.report.tsne import mosaic, thumbnail, tsne_maps, worst_classes


def logits_of(answers, num_classes, strength=None):
    """Logits whose largest entry is the answer, by a margin of `strength`."""
    out = np.zeros((len(answers), num_classes))
    out[np.arange(len(answers)), answers] = 1.0 if strength is None else strength
    return out


def test_worst_classes_by_hand():
    #        class 0: 1 of 4 right       class 1: 2 of 3    class 2: right  class 3: 0 of 1
    labels = [0, 0, 0, 0] + [1, 1, 1] + [2] + [3]
    answer = [0, 1, 2, 1] + [1, 1, 3] + [2] + [0]
    margin = [1, 5, 9, 7] + [1, 1, 1] + [1] + [1]
    found = worst_classes(logits_of(answer, 5, margin), np.array(labels), 5, worst=2, examples=2)
    assert found == [
        {
            "class": 3,
            "accuracy": 0.0,
            "n": 1,
            "confusions": [[0, 1]],
            "examples": [{"row": 8, "predicted": 0}],
        },
        {
            "class": 0,
            "accuracy": 0.25,
            "n": 4,
            "confusions": [[1, 2], [2, 1]],
            # The surest mistakes first: row 2 with a margin of 9, then row 3 with 7.
            "examples": [{"row": 2, "predicted": 2}, {"row": 3, "predicted": 1}],
        },
    ]
    assert [c["class"] for c in worst_classes(logits_of(answer, 5), np.array(labels), 5)] == [
        3,
        0,
        1,
    ]


def test_confusions_are_sklearns():
    from sklearn.metrics import confusion_matrix

    rng = np.random.default_rng(1)
    logits, labels = rng.standard_normal((300, 6)), rng.integers(0, 6, 300)
    counts = confusion_matrix(labels, logits.argmax(1), labels=range(6))
    for each in worst_classes(logits, labels, 6, worst=6):
        row = counts[each["class"]]
        assert each["n"] == row.sum()
        assert {k: v for k, v in each["confusions"]} == {
            k: v for k, v in enumerate(row) if v and k != each["class"]
        }
        for example in each["examples"]:
            assert labels[example["row"]] == each["class"]
            assert logits[example["row"]].argmax() == example["predicted"] != each["class"]


def test_among_equals_the_larger_class_is_worse_and_perfect_ones_never_are():
    labels = np.array([0, 1, 1, 2])
    found = worst_classes(logits_of([1, 0, 0, 2], 3), labels, 3)
    assert [c["class"] for c in found] == [1, 0]
    assert worst_classes(logits_of([0, 1], 2), np.array([0, 1]), 2) == []


def two_domains(n=40, width=8, shift=8.0, seed=0):
    rng = np.random.default_rng(seed)
    one, two = rng.standard_normal((2, n, width)).astype(np.float32)
    return one, two + shift


def test_maps_repeat_and_are_of_the_same_rows():
    apart, together = two_domains(), two_domains(shift=0)
    found = tsne_maps({"before": apart, "after": together}, seed=3, limit=20)
    assert found == tsne_maps({"before": apart, "after": together}, seed=3, limit=20)
    assert len(found["source"]) == len(found["target"]) == 20
    assert all(len(points) == 40 and len(points[0]) == 2 for points in found["maps"].values())
    assert found["source"] == sorted(set(found["source"])) and max(found["source"]) < 40
    assert tsne_maps({"before": apart}, seed=4, limit=20)["source"] != found["source"]
    # Adding a map changes neither the rows nor the others.
    alone = tsne_maps({"before": apart}, seed=3, limit=20)
    assert alone["maps"]["before"] == found["maps"]["before"]
    json.dumps(found, allow_nan=False)
    rounded = np.array(found["maps"]["before"])
    np.testing.assert_array_equal(rounded, rounded.round(2))


def test_a_map_separates_what_is_apart_and_mixes_what_is_not():
    from sklearn.neighbors import KNeighborsClassifier

    found = tsne_maps({"apart": two_domains(), "mixed": two_domains(shift=0)}, seed=0)
    domain = np.repeat([0, 1], 40)
    score = {
        name: KNeighborsClassifier(5).fit(points, domain).score(points, domain)
        for name, points in found["maps"].items()
    }
    assert score["apart"] == 1.0 and score["mixed"] < 0.9


def test_maps_of_what_cannot_be_mapped():
    assert tsne_maps({}, seed=0)["maps"] == {}
    one, two = two_domains(n=2)
    assert tsne_maps({"tiny": (one, two)}, seed=0)["maps"] == {}
    flat = (np.ones((30, 4)), np.ones((30, 4)))
    found = tsne_maps({"flat": flat, "zero": (0 * flat[0], 0 * flat[1])}, seed=0)
    assert found["maps"] == {} and found["collapsed"] == ["flat", "zero"]
    small = tsne_maps({"few": two_domains(n=4)}, seed=0)["maps"]["few"]
    assert np.isfinite(small).all()
    with pytest.raises(ValueError, match="same"):
        tsne_maps({"a": two_domains(n=10), "b": two_domains(n=11)}, seed=0)


def test_unequal_domains_and_widths():
    source, target = two_domains(n=30)
    found = tsne_maps({"a": (source, target[:12]), "b": (source[:, :3], target[:12, :3])}, seed=0)
    assert (len(found["source"]), len(found["target"])) == (30, 12)
    assert all(len(points) == 42 for points in found["maps"].values())


@pytest.mark.parametrize("shape", [(100, 50, 3), (20, 30, 3), (1, 500, 3)])
def test_thumbnails_are_small_and_keep_their_shape(shape):
    image = np.full(shape, (200, 30, 90), np.uint8)
    head, data = thumbnail(image).split(",")
    assert head == "data:image/webp;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert max(picture.size) <= 64
    if max(shape) <= 64:
        assert picture.size == (shape[1], shape[0])
    np.testing.assert_allclose(np.asarray(picture.convert("RGB"))[0, 0], (200, 30, 90), atol=12)


def test_confusions_count_every_answer_and_keep_the_classes_of_most_mistakes():
    rng = np.random.default_rng(6)
    logits, labels = rng.standard_normal((2, 400, 50)), rng.integers(0, 50, 400)
    whole, some = confusion(logits, labels, limit=50), confusion(logits, labels, limit=7)
    answers = logits.argmax(-1)
    for i, c in enumerate(whole["classes"]):
        for j, k in enumerate(whole["classes"]):
            wanted = ((labels == c) & (answers == k)).sum()
            assert whole["counts"][i][j] == wanted
    wrong = (answers != labels).sum(axis=0)
    times = np.array([wrong[labels == c].sum() for c in range(50)])
    assert sorted(times)[-7] == min(times[some["classes"]]) and len(some["classes"]) == 7
    assert [sum(row) for row in some["counts"]] == [
        2 * (labels == c).sum() for c in some["classes"]
    ]


def test_reliability_adds_up_to_the_calibration_error():
    rng = np.random.default_rng(7)
    logits, labels = 3 * rng.standard_normal((1, 300, 4)), rng.integers(0, 4, 300)
    points = np.array(reliability(logits, labels))
    assert points[:, 2].sum() == pytest.approx(1, abs=1e-3)
    error = float((np.abs(points[:, 0] - points[:, 1]) * points[:, 2]).sum())
    assert error == pytest.approx(float(calibration_error(logits[0], labels)), abs=1e-3)


def test_without_labels_there_is_nothing_to_count():
    logits, labels = np.zeros((2, 5, 3)), np.full(5, NO_LABEL)
    assert confusion(logits, labels) == {"classes": [], "counts": []}
    assert reliability(logits, labels) == []


def test_a_mosaic_has_every_image_in_its_tile_up_to_a_number(monkeypatch):
    images = [np.full((30, 60, 3), shade, np.uint8) for shade in (0, 60, 120, 180, 240)]
    monkeypatch.setattr(tsne, "MOST_TILES", 4)
    found = mosaic(iter(images))
    assert (found["tile"], found["columns"], found["count"]) == (40, 2, 4) and mosaic([]) == {}
    picture = Image.open(io.BytesIO(base64.b64decode(found["src"].partition(",")[2])))
    pixels = np.asarray(picture.convert("L"), int)
    for i, shade in enumerate((0, 60, 120, 180)):
        assert abs(pixels[40 * (i // 2) + 20, 40 * (i % 2) + 20] - shade) < 8
