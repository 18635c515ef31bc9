"""Norms by the batch: equal to torch's in training, fixed on the whole training set for tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt.precise import FIXED, MOMENTS, precise_statistics
from clipjax.adapt.segment import make_segmenter
from clipjax.adapt.step import make_step
from clipjax.model.decoders import DECODERS, resize_map

RNG = np.random.default_rng(0)
SHAPE = (6, 5, 4)  # of the maps that are cut
MAPS = (RNG.normal(3, 2, (7, *SHAPE)) + RNG.normal(0, 3, (7, 1, 1, 4))).astype(np.float32)


def test_dilated_convolutions_by_the_batch_are_torchs_in_training():
    torch = pytest.importorskip("torch", reason='parity needs PyTorch: pip install -e ".[parity]"')
    dilations, texts = (6, 12, 18, 24), RNG.normal(size=(3, 5)).astype(np.float32)
    # Dilations within both sides, within one of them, and beyond both; the last row is padding.
    x = RNG.normal(1, 2, (4, 20, 8, 6)).astype(np.float32)
    slope, real = RNG.normal(size=(4, 20, 8, 3)).astype(np.float32), np.arange(4) < 3
    slope[3] = 0
    decoder = DECODERS["aspp"](3, stats="batch")
    params = decoder.init(jax.random.key(0), [x], texts=texts)["params"]
    assert set(params) == {f"{part}_{d}" for part in ("conv", "norm") for d in dilations}
    flat, tree = jax.tree.flatten(params)
    moved = [a + RNG.normal(0, 0.3, a.shape).astype(np.float32) for a in flat]
    params = jax.tree.unflatten(tree, moved)

    def total(params, x):
        seen = decoder.apply({"params": params}, [x], real=real, texts=texts)
        return (seen * slope).sum(), seen

    (ours_params, ours_x), ours = jax.jit(jax.grad(total, (0, 1), has_aux=True))(params, x)
    leaf = lambda a: torch.tensor(np.asarray(a), requires_grad=True)
    theirs_x, weights, answer = leaf(x[:3].transpose(0, 3, 1, 2)), {}, 0
    for d in dilations:
        norm, kernel = (
            params[f"norm_{d}"],
            np.transpose(params[f"conv_{d}"]["kernel"], (3, 2, 0, 1)),
        )
        weights[d] = [leaf(a) for a in (kernel, norm["scale"], norm["bias"])]
        kernel, scale, bias = weights[d]
        y = torch.nn.functional.conv2d(theirs_x, kernel, padding=d, dilation=d)
        y = torch.nn.functional.batch_norm(y, None, None, scale, bias, training=True, eps=1e-5)
        answer = answer + torch.relu(y)
    answer = torch.einsum("bchw,kc->bhwk", answer, torch.tensor(texts))
    (answer * torch.tensor(slope[:3])).sum().backward()
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())
    close(ours[:3], answer.detach().numpy())
    close(ours_x[:3].transpose(0, 3, 1, 2), theirs_x.grad.numpy())
    for d, (kernel, scale, bias) in weights.items():
        close(ours_params[f"conv_{d}"]["kernel"].transpose(3, 2, 0, 1), kernel.grad.numpy())
        close(ours_params[f"norm_{d}"]["scale"], scale.grad.numpy())
        close(ours_params[f"norm_{d}"]["bias"], bias.grad.numpy())


@pytest.mark.parametrize("kind", ["linear", "pup"])
def test_statistics_are_those_of_the_whole_set_layer_by_layer(kind):
    decoder = DECODERS[kind](classes=3, width=8, stats="batch")
    made = make_segmenter(decoder, resize_map, [SHAPE])
    params = jax.jit(made.init)(jax.random.key(0))
    moments = jax.jit(made.moments)
    flat = MAPS.reshape(7, -1)
    rows = lambda index, count: {"inputs": flat[index], "weight": np.arange(4) < count}
    # Cut unevenly, and the last batch filled up with rows that do not count.
    batches = lambda: iter([(rows([0, 1, 2, 3], 4), 4), (rows([4, 5, 6, 4], 3), 3)])
    step = lambda fixed, rows, n: moments(
        params | ({FIXED: fixed} if fixed else {}), rows, jax.random.key(n)
    )
    fixed = precise_statistics(step, batches, decoder.norms_deep(1))
    whole, found = decoder.apply({"params": params["decoder"]}, [MAPS], mutable=[MOMENTS])
    assert jax.tree.structure(found[MOMENTS]) == jax.tree.structure(fixed)
    if kind == "linear":  # its norm reads the maps themselves
        places = MAPS.reshape(-1, 4).astype(np.float64)
        np.testing.assert_allclose(fixed["norm"]["mean"], places.mean(0), rtol=1e-5)
        np.testing.assert_allclose(fixed["norm"]["variance"], places.var(0), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), fixed, found[MOMENTS])
    answer = jax.jit(lambda x: made.logits(params | {FIXED: fixed}, {"inputs": x}, None))
    seen = answer(flat)
    np.testing.assert_allclose(seen, whole, atol=1e-4)
    others = np.concatenate([flat[:1], 50 + flat[1:]])  # what else is in a batch
    assert np.array_equal(answer(others)[0], seen[0])
    assert not np.allclose(answer(others)[1:], seen[1:])
    with pytest.raises(ValueError, match="stats=batch has no statistics to answer by"):
        made.logits(params, {"inputs": flat}, None)


@pytest.mark.parametrize(
    ("how", "words"),
    [({"accumulate": 2}, "leave accumulate=2 out"), ({"axis_name": "data"}, "axis_name='data'")],
)
def test_parts_of_a_batch_have_no_statistics_of_it(how, words):
    loss = lambda stats: make_segmenter(DECODERS["mlp"](3, stats=stats), resize_map, [SHAPE]).loss
    with pytest.raises(ValueError, match=words):
        make_step(loss("batch"), None, total_steps=1, **how)
    assert make_step(loss("layer"), None, total_steps=1, **how)


def test_labels_of_self_training_are_the_decoders_own_among_the_classes_without_masks():
    decoder = DECODERS["linear"](classes=3, stats="layer")
    unseen = np.array([True, False, True])
    late = make_segmenter(decoder, resize_map, [SHAPE], own_labels=(0.5, unseen))
    plain = make_segmenter(decoder, resize_map, [SHAPE])
    params = plain.init(jax.random.key(0))
    labels = RNG.integers(0, 3, (7, 6, 5)).astype(np.uint8)
    labels[:, 0] = 255
    rows = {"inputs": MAPS.reshape(7, -1), "label": labels}
    logits = np.array(plain.logits(params, rows, None))
    own = np.where(logits[..., 0] > logits[..., 2], 0, 2).astype(np.uint8)
    wanted = np.where((labels == 0) | (labels == 2), own, labels)
    assert np.any(wanted != labels) and np.all(wanted[:, 0] == 255)
    value = lambda made, labels, progress: float(
        made.loss(params, {"source": rows | {"label": jnp.asarray(labels)}}, None, progress)[0]
    )
    assert value(late, labels, 0.49) == pytest.approx(value(plain, labels, 0), rel=1e-6)
    assert value(late, labels, 0.5) == pytest.approx(value(plain, wanted, 0), rel=1e-6)
    grad = lambda made, labels: jax.grad(
        lambda p: made.loss(p, {"source": rows | {"label": jnp.asarray(labels)}}, None, 0.9)[0]
    )(params)
    slopes = grad(late, labels), grad(plain, wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *slopes)
