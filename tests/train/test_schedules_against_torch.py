"""Learning-rate schedules, AdamW, clipping and the class loss against PyTorch's own."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.train.optim import Rule, make_optimizer, make_schedule

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install -e ".[parity]"')
lr_scheduler = torch.optim.lr_scheduler

LR = 0.3


def torch_rates(make, count, every=1):
    """The rate at each of `count` steps; `make(optimizer)` is stepped after every `every` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler, rates = make(optimizer), []
    for step in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return np.array(rates)


def our_rates(name, count, **options):
    schedule = make_schedule(name, LR, count, **options)
    return np.array([float(schedule(step)) for step in range(count)])


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_step_is_step_lr():
    theirs = torch_rates(lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.2), 12)
    assert len(set(theirs.round(9))) == 4
    close(our_rates("step", 12, step_every=1 / 4, gamma=0.2), theirs)


def test_step_is_step_lr_by_epoch_where_plateaus_are_whole_epochs():
    """6 epochs of 5 steps, torch's scheduler stepped once an epoch: every 2 epochs = 1/3 of all."""
    theirs = torch_rates(lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.1), 30, every=5)
    close(our_rates("step", 30, step_every=1 / 3), theirs)


def test_cosine_is_cosine_annealing_by_step():
    theirs = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=17), 17)
    close(our_rates("cosine", 17), theirs)


def test_cosine_touches_cosine_annealing_by_epoch_at_the_start_of_epochs_and_is_below_after():
    theirs = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=6), 30, every=5)
    ours = our_rates("cosine", 30)
    close(ours[::5], theirs[::5])
    assert np.all(np.delete(ours, range(0, 30, 5)) < np.delete(theirs, range(0, 30, 5)))


@pytest.mark.parametrize("name", ["constant", "cosine", "step"])
def test_warmup_is_a_linear_schedule_before_the_main_one(name):
    """Up to the first step: torch refuses a warm-up from 0, so theirs starts from a millionth."""
    warm, count = 4, 20
    after = {
        "constant": lambda o: lr_scheduler.ConstantLR(o, factor=1.0),
        "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=count - warm),
        "step": lambda o: lr_scheduler.StepLR(o, step_size=5, gamma=0.1),
    }[name]

    def make(optimizer):
        rise = lr_scheduler.LinearLR(optimizer, start_factor=1e-6, total_iters=warm)
        return lr_scheduler.SequentialLR(optimizer, [rise, after(optimizer)], milestones=[warm])

    ours = our_rates(name, count, warmup=warm / count, step_every=1 / 4)
    np.testing.assert_allclose(ours, torch_rates(make, count), rtol=1e-5, atol=1e-6 * LR)
    assert ours[0] == 0.0 and ours[warm] == pytest.approx(LR)


def parameters_and_gradients(steps):
    """A matrix, an ensemble's matrices and biases, a scale; gradients of varying size."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "members": {"kernel": (2, 3, 5), "bias": (2, 5)}, "scale": (4,)}
    draw = lambda size: jax.tree.map(
        lambda s: (size * rng.standard_normal(s)).astype(np.float32),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )
    return draw(1.0), [draw(size) for size in np.geomspace(0.02, 2.0, steps)]


def torch_walk(make, params, grads, clip_norm):
    """Parameters after torch's optimizer saw the gradients, and how many of them were clipped."""
    leaves, tree = jax.tree.flatten(params)
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in leaves]
    kernels = ["kernel" in jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(params)]
    groups = [
        {"params": list(itertools.compress(theirs, kernels)), "weight_decay": 0.1},
        {"params": [p for p, k in zip(theirs, kernels, strict=True) if not k], "weight_decay": 0.0},
    ]
    optimizer, clipped = make(groups), 0
    for gradient in grads:
        for parameter, value in zip(theirs, jax.tree.leaves(gradient), strict=True):
            parameter.grad = torch.tensor(value)
        if clip_norm:
            clipped += bool(torch.nn.utils.clip_grad_norm_(theirs, clip_norm) > clip_norm)
        optimizer.step()
    return tree.unflatten([p.detach().numpy() for p in theirs]), clipped


OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98)),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_steps_with_decay_of_kernels_only(name, clip_norm):
    params, grads = parameters_and_gradients(10)
    optimizer = make_optimizer(
        optax.constant_schedule(0.01), Rule(name, b2=0.98), weight_decay=0.1, clip_norm=clip_norm
    )
    ours = jax.tree.map(jnp.asarray, params)
    state, update = optimizer.init(ours), jax.jit(optimizer.update)
    for gradient in grads:
        updates, state = update(jax.tree.map(jnp.asarray, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
    theirs, clipped = torch_walk(OPTIMIZERS[name], params, grads, clip_norm)
    assert 0 < clipped < 10 if clip_norm else clipped == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_cross_entropy_and_its_gradient(smoothing, masked):
    """Padding is torch's ignore_index: left out of the sum and of the count."""
    rng = np.random.default_rng(3)
    logits, labels = 3 * rng.standard_normal((9, 5)).astype(np.float32), rng.integers(5, size=9)
    mask = np.arange(9) < (6 if masked else 9)
    weight = jnp.asarray(mask / mask.mean(), jnp.float32) if masked else None
    value, gradient = jax.value_and_grad(smoothed_cross_entropy)(
        jnp.asarray(logits), jnp.asarray(labels), smoothing, weight
    )
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        theirs,
        torch.tensor(np.where(mask, labels, -100)),
        ignore_index=-100,
        label_smoothing=smoothing,
    )
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-5, atol=1e-7)
