"""Learning-rate schedules, optimizers, clipping and the class loss against PyTorch's own."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt.losses import smoothed_cross_entropy
from clipjax.train.optim import Rule, make_optimizer
from clipjax.train.schedules import make_schedule

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


@pytest.mark.parametrize("reached", [1e-4, 3.0])  # down and up
def test_a_warm_up_along_a_cosine_is_swalr(reached):
    """By step, and at the start of epochs where torch's scheduler is stepped once an epoch."""
    swa = lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=reached, anneal_epochs=10)
    options = {"warmup": 10 / 12, "warmup_from": LR, "warmup_kind": "cosine"}
    ours = [float(make_schedule("constant", reached, 12, **options)(k)) for k in range(12)]
    close(ours, torch_rates(swa, 12))
    ours = [float(make_schedule("constant", reached, 60, **options)(k)) for k in range(0, 60, 5)]
    close(ours, torch_rates(swa, 60, every=5)[::5])


def test_the_rate_of_seed_002_never_reaches_what_it_names():
    """SWALR from 1e-5 to 1e-4 within ten epochs, of which the last is at 9.78e-5."""
    rise = {"warmup": 1.0, "warmup_from": 1e-5, "warmup_kind": "cosine"}
    rate = make_schedule("constant", 1e-4, 10, **rise)
    wanted = [1.0, 1.2202, 1.8594, 2.8550, 4.1094, 5.5, 6.8906, 8.1450, 9.1406, 9.7798]
    np.testing.assert_allclose([1e5 * float(rate(k)) for k in range(10)], wanted, rtol=1e-4)


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


def test_a_floor_is_eta_min_and_linear_is_linear_lr():
    theirs = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=17, eta_min=0.02), 17)
    close(our_rates("cosine", 17, min_lr=0.02), theirs)
    theirs = torch_rates(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.25, total_iters=8), 8)
    close(our_rates("linear", 8, min_lr=0.25 * LR), theirs)
    assert our_rates("step", 9, gamma=0.1, min_lr=0.1).tolist() == pytest.approx(
        [LR] * 3 + [0.1] * 6
    )
    assert our_rates("step", 3, gamma=2.0).tolist() == pytest.approx([LR, 2 * LR, 4 * LR])


def test_a_rate_that_changes_once_an_epoch_is_that_of_a_scheduler_stepped_once_an_epoch():
    theirs = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=6), 30, every=5)
    close(our_rates("cosine", 30, every=5), theirs)


def test_dassls_warmup_is_an_epoch_at_one_rate_and_then_the_whole_cosine():
    """CoOp's log (issue 26): 0.002, 50 epochs, the first at 1e-5; cut before it reaches 0."""
    schedule = make_schedule(
        "cosine", 2e-3, 500, warmup=0.02, warmup_kind="constant", warmup_from=1e-5, every=10
    )
    rates = [float(schedule(10 * epoch + 9)) for epoch in (0, 1, 2, 3, 4, 49)]
    np.testing.assert_allclose(
        rates, [1e-5, 2e-3, 1.998027e-3, 1.992115e-3, 1.982287e-3, 7.885299e-6], rtol=1e-5
    )


def test_open_clips_warmup_is_a_step_ahead():
    rates = our_rates("constant", 8, warmup=0.5, warmup_kind="linear_next")
    close(rates, LR * np.array([0.25, 0.5, 0.75, 1, 1, 1, 1, 1]))


def test_the_slanted_triangle_is_ulmfits():
    """Howard & Ruder 2018, equation 3: T 100, cut_frac 0.1, ratio 32."""
    schedule = make_schedule("slanted", 0.01, 100)
    cut = 10

    def theirs(t):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / 0.1 - 1))
        return 0.01 * (1 + p * 31) / 32

    steps = np.arange(101)
    close([float(schedule(t)) for t in steps], [theirs(t) for t in steps])
    assert float(schedule(55)) == pytest.approx(0.005156, rel=1e-4)


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


def torch_walk(make, params, grads, decayed, clip_norm=0.0, clip_value=0.0):
    """Parameters after torch's optimizer saw the gradients, and how many of them were clipped."""
    leaves, tree = jax.tree.flatten(params)
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in leaves]
    places = jax.tree.leaves_with_path(params)
    decays = [decayed == "all" or "kernel" in jax.tree_util.keystr(p) for p, _ in places]
    groups = [
        {"params": list(itertools.compress(theirs, decays)), "weight_decay": 0.1},
        {"params": [p for p, k in zip(theirs, decays, strict=True) if not k], "weight_decay": 0.0},
    ]
    optimizer, clipped = make(groups[: 1 if all(decays) else 2]), 0
    for gradient in grads:
        for parameter, value in zip(theirs, jax.tree.leaves(gradient), strict=True):
            parameter.grad = torch.tensor(value)
        if clip_value:
            clipped += max(float(abs(p.grad).max()) for p in theirs) > clip_value
            torch.nn.utils.clip_grad_value_(theirs, clip_value)
        if clip_norm:
            clipped += bool(torch.nn.utils.clip_grad_norm_(theirs, clip_norm) > clip_norm)
        optimizer.step()
    return tree.unflatten([p.detach().numpy() for p in theirs]), clipped


# Rule -> torch's optimizer of parameter groups.
OPTIMIZERS = {
    Rule("adamw", b2=0.98): lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98)),
    Rule("adamw", b1=0.7, eps=1e-2, decay="all"): lambda groups: torch.optim.AdamW(
        groups, lr=0.01, betas=(0.7, 0.999), eps=1e-2
    ),
    Rule("adam", b1=0.8, eps=1e-3): lambda groups: torch.optim.Adam(
        groups, lr=0.01, betas=(0.8, 0.999), eps=1e-3
    ),
    Rule("adam", decay="all"): lambda groups: torch.optim.Adam(groups, lr=0.01),
    Rule("sgd"): lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True),
    Rule("sgd", momentum=0.7, nesterov=False): lambda groups: torch.optim.SGD(
        groups, lr=0.01, momentum=0.7
    ),
}


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}, {"clip_value": 0.5}], ids=str)
@pytest.mark.parametrize("rule", OPTIMIZERS, ids=lambda rule: f"{rule.name}-{rule.decay}")
def test_ten_steps_with_decay_of_kernels_or_of_all(rule, clip):
    params, grads = parameters_and_gradients(10)
    rate = optax.constant_schedule(0.01)
    optimizer = make_optimizer(rate, rule, weight_decay=0.1, **clip)
    ours = jax.tree.map(jnp.asarray, params)
    state, update = optimizer.init(ours), jax.jit(optimizer.update)
    for gradient in grads:
        updates, state = update(jax.tree.map(jnp.asarray, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
    theirs, clipped = torch_walk(OPTIMIZERS[rule], params, grads, rule.decay, **clip)
    assert 0 < clipped < 10 if clip else clipped == 0
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
