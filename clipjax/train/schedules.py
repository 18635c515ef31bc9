"""Learning rates along a run."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

SLANT, RATIO = 0.1, 32.0  # ULMFiT's cut_frac and ratio


def make_schedule(
    name: str,
    lr: float,
    total_steps: int,
    *,
    warmup: float = 0.0,
    warmup_kind: str = "linear",
    warmup_from: float = 0.0,
    step_every: float = 1 / 3,
    gamma: float = 0.1,
    min_lr: float = 0.0,
    every: int = 1,
) -> Callable[[Any], Any]:
    """A learning-rate schedule, a function of the optimizer's step.

    Args:
      name: "constant"; "cosine" (Loshchilov & Hutter 2017) and "linear" down to `min_lr`; "step"
        (torch's StepLR); "slanted", ULMFiT's triangle (Howard & Ruder 2018, arXiv 1801.06146,
        section 3.2): up from a 32nd of `lr` in `warmup`, a tenth of the run where that is 0, and
        linearly down to it again.
      lr: the peak learning rate.
      total_steps: of the whole run.
      warmup: fraction of the run before the schedule begins.
      warmup_kind: "linear" from `warmup_from` to `lr` (transformers' and optax's convention: from 0
        the first update is zero); "linear_next", the same one step ahead (open_clip, WiSE-FT,
        FLYP); "cosine": half a cosine from `warmup_from` up or down to `lr` (torch's SWALR, with
        "constant" behind it); "constant": at `warmup_from`, after which the schedule begins as if
        nothing had been before, and is cut at the end of the run (Dassl, so CoOp).
      warmup_from: where the warm-up starts.
      step_every: for "step", the length of a plateau as a fraction of the run.
      gamma: for "step", the factor between plateaus.
      min_lr: no rate after the warm-up is below it; torch's eta_min.
      every: steps for which a rate stays: those of an epoch where a recipe changes it once an epoch
        (Dassl). Recipes by step and by epoch agree at the start of each epoch.

    ValueError: an unknown schedule or warm-up.
    """
    slanted = name == "slanted"
    if slanted:
        warmup, warmup_kind = warmup or SLANT, "linear"
        warmup_from = min_lr = lr / RATIO
    warm = round(warmup * total_steps)
    length = max(1, total_steps - (0 if warmup_kind == "constant" else warm))
    plateau = max(1, round(step_every * total_steps))
    stairs = optax.exponential_decay(lr, plateau, gamma, staircase=True)
    known = {
        "constant": lambda: optax.constant_schedule(lr),
        "cosine": lambda: optax.cosine_decay_schedule(lr, length, min_lr / lr if lr else 0.0),
        "linear": lambda: optax.linear_schedule(lr, min_lr, length),
        "slanted": lambda: optax.linear_schedule(lr, min_lr, length),
        "step": lambda: lambda step: jnp.maximum(stairs(step), min_lr),
    }
    rise = optax.linear_schedule(warmup_from, lr, max(1, warm))
    fall = optax.cosine_decay_schedule(1.0, max(1, warm))
    before = {
        "linear": rise,
        "linear_next": lambda step: rise(step + 1),
        "cosine": lambda step: lr + (warmup_from - lr) * fall(step),
        "constant": optax.constant_schedule(warmup_from),
    }
    if name not in known:
        raise ValueError(f"unknown optim.schedule {name!r}; known: {', '.join(known)}.")
    if warmup_kind not in before:
        raise ValueError(f"unknown optim.warmup_kind {warmup_kind!r}; known: {', '.join(before)}.")
    curve = known[name]()
    if warm:
        curve = optax.join_schedules([before[warmup_kind], curve], [warm])
    return curve if every == 1 else lambda step: curve(step // every * every)
