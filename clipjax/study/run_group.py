"""Methods that train as one program: their network, phases, states and steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.adapt.step import TrainState, init_state, make_step
from clipjax.data.images.augment import random_resized_crop
from clipjax.data.loading.sampler import Sampling, steps_per_epoch
from clipjax.evaluate.select import best_steps
from clipjax.io import as_path
from clipjax.log import MetricsLog, NoLog, read_log
from clipjax.model.network import Network, make_network, needed_clip
from clipjax.study.encode import Encoded
from clipjax.study.methods import (
    LOSS_FACTORS,
    OPTIM_FACTORS,
    build_optimizer,
    lambda_of,
    learning_rate,
)
from clipjax.study.parts import Augment, PhaseConfig
from clipjax.study.plan import cached_phases, planned_epoch, start_heads
from clipjax.study.training_data import Examples
from clipjax.study.workdir import run_name
from clipjax.train.arrays import run_mesh
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import processes
from clipjax.train.distributed.sharding import on_each
from clipjax.train.groups import frozen_tree, matches, name_tree
from clipjax.train.phases import next_state, spans

PyTree = Any


def select_fn(functions: Sequence[Callable], row: jax.Array | int) -> Callable:
    """The `row`-th of some functions of a number, where `row` may be traced."""
    if len(functions) == 1:
        return functions[0]
    return lambda x: jnp.stack([jnp.asarray(f(x), jnp.float32) for f in functions])[row]


def stack_if_varied(values: Sequence[float], row: jax.Array | int) -> float | jax.Array | None:
    """The `row`-th of some numbers, where `row` may be traced; None where all are equal."""
    if len(set(values)) == 1:
        return None
    return jnp.asarray(values, jnp.float32)[row]


class RunGroup:
    """Methods of a run that train as one program, mostly one.

    A "run" below is a seed of a method; runs are stacked, all seeds of a method side by side.
    """

    def __init__(self, names: Sequence[str], encoded: Encoded, workdir):
        self.names, self.plan, self.study = tuple(names), encoded.plan, encoded.study
        self.training = self.study.training
        self.methods = tuple(self.plan.methods[name] for name in names)
        self.method = self.methods[0]  # for what they have in common: all but rates and lambdas
        self.cached = cached_phases(self.plan, self.method)
        self.encoded, self.workdir = encoded, as_path(workdir)
        self.examples = Examples(self.methods, encoded)
        events = self.workdir / "events" / names[0] if self.training.tensorboard else None
        log = MetricsLog if processes.is_first() else NoLog
        self.log = log(self.workdir / "metrics.jsonl", events)
        self.per_epoch = self.epoch_length()
        phases = self.method.phases
        lengths = [phase.epochs * self.per_epoch for phase in phases]
        optimizers = [phase.optim.name for phase in phases]
        self.spans = spans(lengths, [phase.freeze for phase in phases], optimizers)
        self.network = self.network_for(None)

    def epoch_length(self) -> int:
        """Steps of an epoch: as logged where the examples are not at hand (`restored`)."""
        data, size = self.method.data, self.training.batch_size
        if (data.source, "train") in self.encoded.parts:
            sizes = [len(rows[0]) for rows in self.examples.rows().values()]
            return steps_per_epoch(*sizes, size, data.epoch)
        for record in read_log(self.log.path):
            if self.study.method_of.get(record.get("phase")) in self.names:
                return record["step"] // record["epoch"]
        return planned_epoch(data, size, self.plan.dataset)

    def network_for(self, augment: Augment | None) -> Network:
        """The method's network, with or without augmentation."""
        heads, normalized = self.method.heads, self.plan.preprocess.normalize
        tokens = self.encoded.tokens if heads.text else None

        def look(pixels, rng):
            if augment is not None and rng is not None:
                pixels = random_resized_crop(
                    rng, pixels, smallest=augment.smallest, flip=augment.flip
                )
            return normalized(pixels)

        return make_network(self.plan.module, look, heads, tokens=tokens)

    @property
    def sampling(self) -> Sampling:
        """How an epoch is made up; its length as a number, which needs no target to be known."""
        return Sampling(self.per_epoch, self.study.data.balanced)

    @property
    def total_steps(self) -> int:
        """Of all phases."""
        return self.spans[-1].start + self.spans[-1].steps

    @property
    def mesh(self) -> Mesh | None:
        """The devices that share the runs, where these train on cached features."""
        return run_mesh(len(self.methods) * len(self.training.seeds))

    @property
    def title(self) -> str:
        """The methods in few words."""
        if not self.study.sweep:
            return " and ".join(self.names)
        stages = " and ".join(dict.fromkeys(method.config.stage for method in self.methods))
        return f"{stages}, {len(self.names)} settings"

    @property
    def described(self) -> str:
        """What is about to train, for people."""
        seeds, epochs = len(self.training.seeds), self.method.config.epochs
        if not self.study.sweep:
            return f"train {self.title}: {epochs} epochs, {seeds} seeds"
        runs = len(self.names) * seeds
        at_a_time = self.mesh.size if self.mesh else runs
        how = (
            f"as one program, {at_a_time} at a time" if all(self.cached) else "one after the other"
        )
        return f"train {runs} runs {how}: {self.title}, {seeds} seeds, {epochs} epochs"

    def training_features(self) -> dict:
        """Source features with labels, target features without; all that any method takes."""
        return self.examples.features()

    def start(self) -> TrainState:
        """States of all runs before any phase, stacked; heads only, and no optimizer state."""
        weights, scale = self.encoded.text_weights, self.encoded.scale

        def start(seed):
            heads = start_heads(self.plan, self.method, seed, weights, scale)
            return TrainState(jnp.zeros((), jnp.int32), heads, (), seed)

        seeds = np.array(tuple(self.training.seeds) * len(self.methods), np.uint32)
        return jax.jit(jax.vmap(start))(on_each(seeds))

    def setup(self, index: int, params: PyTree, row: jax.Array | int = 0):
        """(optimizer, frozen mask) of a phase over these parameters, for the `row`-th method."""
        phase, span = self.method.phases[index], self.spans[index]
        curves = [learning_rate(method.phases[index], span.steps) for method in self.methods]
        factors = {}
        for key in OPTIM_FACTORS:
            values = [getattr(method.phases[index].optim, key) for method in self.methods]
            if (value := stack_if_varied(values, row)) is not None:
                factors[key] = value
        optimizer = build_optimizer(
            phase, span.steps, spans=self.spans, index=index, rate=select_fn(curves, row), **factors
        )
        names = jax.tree.leaves(name_tree(params))
        here = [p for p in phase.freeze if any(matches(p, name) for name in names)]
        return optimizer, frozen_tree(params, here) if here else None

    def begin(self, index: int, state: TrainState, clip: PyTree = None) -> TrainState:
        """The state of one run at the start of a phase; `clip` are parameters of the encoder."""
        more = {}
        if not self.cached[index] and "clip" not in state.params:
            more = {"clip": clip or needed_clip(self.method.heads, self.plan.params)}
        optimizer, frozen = self.setup(index, {**more, **state.params})
        if not index:
            return init_state({**more, **state.params}, optimizer, seed=state.seed, frozen=frozen)
        return next_state(state, optimizer, frozen=frozen, more=more)

    def step(
        self, index: int, network_part, params: PyTree, row: jax.Array | int = 0, axis_name=None
    ):
        """The train step of a phase, for the `row`-th method; of `pmap` with `axis_name`."""
        phase = self.method.phases[index]
        optimizer, frozen = self.setup(index, params, row)
        changes = {}
        if self.method.adversarial:
            schedules = [lambda_of(method.phases[index]) for method in self.methods]
            changes = {"schedule": select_fn(schedules, row)}
            if self.cached[index] and "joined" not in phase.options:
                changes["joined"] = True  # faster; from pixels the halves take less memory
        for key in LOSS_FACTORS:
            values = [method.phases[index].options.get(key, 0.0) for method in self.methods]
            if (value := stack_if_varied(values, row)) is not None:
                changes[key] = value
        return make_step(
            self.method.loss(phase, network_part, **changes),
            optimizer,
            total_steps=self.total_steps,
            frozen=frozen,
            accumulate=self.training.accumulate,
            axis_name=axis_name,
        )

    def rates(self, index: int, row: int, step: int) -> dict[str, float]:
        """Learning rates of the update after `step` updates: `lr`, and `lr:pattern` of groups."""
        phase, span = self.methods[row].phases[index], self.spans[index]
        rate = float(learning_rate(phase, span.steps)(max(0, step - span.start)))
        more = {f"lr:{pattern}": factor * rate for pattern, factor in phase.optim.lr_mults}
        return {key: float(f"{value:.6g}") for key, value in ({"lr": rate} | more).items()}

    def checkpointer(self, phase: PhaseConfig, seed: int | None = None) -> Checkpointer:
        """Where a phase's states go; of the last one the best by `selection` are kept besides."""
        training, best = self.training, None
        folder = self.workdir / "checkpoints" / phase.name
        if training.selection != "last" and phase is self.method.phases[-1]:
            best = functools.partial(
                best_steps, rule=training.selection, count=max(1, training.keep_best)
            )
        return Checkpointer(
            folder if seed is None else folder / f"seed{seed}",
            keep=training.keep,
            best=best,
            run=run_name(self.workdir),
        )
