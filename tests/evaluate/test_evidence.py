"""Evidence: hand-worked confusions, scikit-learn's numbers, maps that repeat."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from clipjax.evaluate.report.tsne import thumbnail, tsne_maps, worst_classes


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
