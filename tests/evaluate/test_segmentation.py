"""Segmentation's loss and measures against PyTorch, scikit-learn and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from clipjax.adapt.pixels import IGNORED, image_divisor, pixel_cross_entropy
from clipjax.errors import DataError
from clipjax.evaluate.segmentation import confusion, enlarged, kept, overlap, slide, windows
from clipjax.model.decoders import resize_map


def test_ious_are_those_of_scikit_learn_on_many_cases():
    rng = np.random.default_rng(0)
    for case in range(200):
        classes = rng.integers(2, 6)
        present = rng.integers(1, classes + 1)  # some are absent
        labels, answers = rng.integers(0, present, (2, 3, 20))
        labels[rng.random(labels.shape) < 0.2] = IGNORED
        matrix = sum(confusion(a, b, classes) for a, b in zip(labels, answers, strict=True))
        found, valid = overlap(matrix), labels != IGNORED
        if not valid.any():
            continue
        names = np.union1d(labels[valid], answers[valid])
        each = jaccard_score(labels[valid], answers[valid], labels=names, average=None)
        np.testing.assert_allclose(found.iou[names], each, atol=1e-12)
        assert np.isnan(np.delete(found.iou, names)).all(), case
        np.testing.assert_allclose(found.miou, each.mean(), atol=1e-12)
        np.testing.assert_allclose(found.accuracy, (labels == answers)[valid].mean())
    half = overlap(np.array([[1, 1], [0, 2]]))
    assert kept(overlap(np.eye(2, dtype=int)), half).percent == pytest.approx(100 * half.miou)


def test_labels_beyond_the_table_and_sizes_that_differ_are_refused():
    with pytest.raises(DataError, match="label 7 is beyond the table of 3 classes"):
        confusion(np.array([0, 7, IGNORED]), np.zeros(3, int), 3)
    with pytest.raises(DataError, match="answer -1 is beyond"):
        confusion(np.array([0]), np.array([-1]), 3)
    with pytest.raises(DataError, match="differ in size"):
        confusion(np.zeros((2, 2), int), np.zeros((2, 3), int), 3)
    for window, stride, words in (((5, 5), (1, 1), "larger than"), ((2, 2), (3, 1), "leaves gaps")):
        with pytest.raises(DataError, match=words):
            list(windows((4, 4), window, stride))


def test_windows_cover_all_and_average_by_counts():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(7, 9, 3))
    places = list(windows((7, 9), (4, 5), (2, 3)))
    count = np.zeros((7, 9))
    for top, left in places:
        count[top : top + 4, left : left + 5] += 1
    assert count.min() >= 1 and len(places) == len(set(places)) == 9
    # An answer that depends on its place alone is averaged to itself; one window is the whole.
    for batch in (1, 4, 16):
        seeds = slide(lambda x: np.stack([2 * x, -x]), image, (4, 5), (2, 3), batch)
        np.testing.assert_allclose(seeds, np.stack([2 * image, -image]), rtol=1e-6)
    whole = slide(lambda x: x.mean((1, 2), keepdims=True) + x, image, (7, 9), (1, 1))
    np.testing.assert_allclose(whole, image.mean((0, 1), keepdims=True) + image, rtol=1e-5)
    assert len(list(windows((1024, 2048), (512, 512), (341, 341)))) == 18  # VPD's


@pytest.mark.parametrize("size", [(11, 7), (3, 9), (5, 6), (1, 1)])
def test_logits_are_enlarged_on_the_host_as_in_a_program(size):
    logits = np.random.default_rng(3).normal(size=(2, 5, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(enlarged(logits, size), resize_map(logits, size), atol=1e-6)
    one = enlarged(logits[:, :1, :1], size)
    np.testing.assert_allclose(one, np.broadcast_to(logits[:, :1, :1], one.shape), rtol=1e-6)


@pytest.mark.parametrize("normaliser", ["weights", "labelled", "pixels"])
def test_pixel_cross_entropy_and_its_gradient_are_those_of_torch(normaliser):
    torch = pytest.importorskip("torch", reason='parity needs PyTorch: pip install -e ".[parity]"')
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    labels = rng.integers(0, 6, (3, 4, 5)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.3] = IGNORED
    weights = rng.uniform(0.5, 2, 6).astype(np.float32)
    theirs = torch.tensor(logits[:2].transpose(0, 3, 1, 2), requires_grad=True)
    truth = torch.tensor(labels[:2].astype(np.int64))
    how = {"ignore_index": IGNORED, "weight": torch.tensor(weights)}
    if normaliser == "weights":
        wanted = torch.nn.functional.cross_entropy(theirs, truth, **how)
    else:
        total = torch.nn.functional.cross_entropy(theirs, truth, **how, reduction="sum")
        wanted = total / (truth.numel() if normaliser == "pixels" else (truth != IGNORED).sum())
    wanted.backward()
    logits[2] = np.nan  # padding
    mask = jnp.array([True, True, False])

    def ours(x):
        return pixel_cross_entropy(x, jnp.array(labels), jnp.array(weights), normaliser, mask)

    value, slope = jax.value_and_grad(ours)(jnp.array(logits))
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-5)
    np.testing.assert_allclose(slope[:2], theirs.grad.permute(0, 2, 3, 1), atol=1e-6)
    assert np.all(slope[2] == 0)
    share = image_divisor(labels, 6, weights, normaliser, mask)
    cut = [[x[i : i + 1] for x in (logits, labels, mask)] for i in range(3)]
    parts = [pixel_cross_entropy(x, y, weights, normaliser, real, share) for x, y, real in cut]
    np.testing.assert_allclose(np.mean(parts), value, rtol=1e-6)  # microbatches of one image each
    none = jnp.full((3, 4, 5), IGNORED)
    assert pixel_cross_entropy(jnp.array(logits), none, mask=mask) == 0
    with pytest.raises(ValueError, match="known: weights, labelled, pixels"):
        pixel_cross_entropy(jnp.zeros((1, 1, 1, 2)), none[:1, :1, :1], normaliser="mean")
