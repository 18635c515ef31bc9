"""Trains methods: their phases one after the other, on cached features or from pixels."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jax.tree import leaves

from clipjax.adapt.preserve import EMBEDDING
from clipjax.adapt.step import TrainState
from clipjax.data.loading.image_cache import Crops
from clipjax.data.loading.pairing import Batching, paired_batches
from clipjax.errors import NonFiniteError
from clipjax.study.closed_form import Fit
from clipjax.study.encode import Encoded
from clipjax.study.epochs import planned_sizes
from clipjax.study.evaluator import Validation
from clipjax.study.mesh import training_mesh, wanted_trace
from clipjax.study.methods import group_runs
from clipjax.study.prepared import Plan, Recorded, cached_phases
from clipjax.study.recipe import Programs
from clipjax.study.restore import Trained, enough, histories, restored, selected, split_by_method
from clipjax.study.run_group import RunGroup
from clipjax.train.arrays import Epochs, fit_arrays
from clipjax.train.distributed import processes
from clipjax.train.distributed.sharding import DATA, fetch, place, state_shardings
from clipjax.train.journal import Outputs
from clipjax.train.preemption import Notice
from clipjax.train.stream import Steps, fit_stream


def trainers(encoded: Encoded, workdir, shared: Programs | None = None) -> list[Trainer | Fit]:
    """Return the study's methods, those together that can train as one program.

    `shared` programs are those of runs before this one, and of this one for runs after it.
    """
    shared = Programs() if shared is None else shared
    kinds = {name: Trainer if m.trains else Fit for name, m in encoded.plan.methods.items()}
    return [kinds[names[0]](names, encoded, workdir, shared) for names in programs(encoded.plan)]


def programs(plan: Plan) -> list[tuple[str, ...]]:
    """Return which methods train as one program; of a finished run as recorded."""
    if isinstance(plan.dataset, Recorded):
        return plan.dataset.programs
    joins = lambda method: method.trains and all(cached_phases(plan, method))
    # Planned sizes: checkpoints of a program are found again without reading an image.
    size = lambda method: (method.data.labelled, *planned_sizes(method.data, plan.dataset))
    return group_runs(plan.methods, joins, size)


class Trainer(RunGroup):
    """Trains a group of runs; resumes where a killed one stopped."""

    def __init__(self, names: Sequence[str], encoded: Encoded, workdir, shared: Programs):
        super().__init__(names, encoded, workdir, shared)
        self.validation = Validation(self.recipe.functions, self.recipe.validate, self.view)

    def train(self, say: Callable[[str], None] = lambda line: None) -> dict[str, Trained]:
        """Run all phases; the parameters are those of the checkpoint that `selection` picks.

        `say` is told how far it is, a line a minute where there is no terminal for a bar.
        """
        self.say, states = say, self.start()
        for index, cached in enumerate(self.cached):
            states = (self.fit_features if cached else self.fit_pixels)(index, states)
        self.log.close()
        history = histories(self)
        if self.training.selection != "last" or self.swad:
            states = selected(self, history)
        return split_by_method(self, states, history)

    def restored(self) -> dict[str, Trained]:
        """Return what `train` returned, read back."""
        return restored(self)

    def fit_features(self, index: int, states: TrainState) -> TrainState:
        """Train a phase on cached features, all runs in one compiled program."""
        phase, span = self.method.phases[index], self.spans[index]
        states, shared = self.recipe.begun(index, states, self.joining(index)), self.shared(index)
        plan = Epochs(
            tuple(method.phases[index].name for method in self.methods),
            (span.start + span.steps) // self.per_epoch,
            self.method.config.batch_size,
            self.training.save_every,
            self.sampler,
            self.examples.chosen_rows(),
            self.mesh,
        )
        with Notice() as notice, self.checkpointer(phase) as checkpointer, self.name_the_group():
            return fit_arrays(
                self.recipe.epochs(index, states, plan),
                states,
                self.training_features(),
                plan,
                Outputs(
                    checkpointer,
                    self.log,
                    evaluate=functools.partial(self.measure, index, shared),
                    describe=lambda row, done: self.recipe.rates(index, row, done - 1),
                    stop=notice.reached,
                    enough=functools.partial(self.enough, index),
                    say=self.say,
                ),
                *filter(None, [shared]),
            )

    def enough(self, index: int, step: int, run: int | None = None) -> bool:
        """Return whether a phase ends after a step because nothing gets better; say so."""
        last = index == len(self.spans) - 1
        if not last or step <= self.spans[index].start or not enough(self, step, run):
            return False
        if step < self.total_steps:
            training, name = self.training, self.method.phases[index].name
            whose = self.title if run is None else f"{name}, seed {training.seeds[run]},"
            self.say(
                f"{whose} ends after epoch {step // self.per_epoch} of "
                f"{self.method.config.epochs}: no better {training.selection} in "
                f"{training.patience} validations"
            )
        return True

    @contextlib.contextmanager
    def name_the_group(self):
        """Say of a method that diverges which others stop with it."""
        try:
            yield
        except NonFiniteError as error:
            if len(self.names) == 1:
                raise
            told = f"{error} {', '.join(self.names)} train as one program and stop together"
            raise NonFiniteError(f"{told}: take the one named out of config.stages.") from None

    def measure(self, index: int, shared, stacked) -> dict[str, list]:
        """Measure each method in its own target and with its own options."""
        runs = [(m.phases[index], m.data.target) for m in self.methods for _ in self.training.seeds]
        return self.validation.measure(runs, stacked, shared)

    def fit_pixels(self, index: int, states: TrainState) -> TrainState:
        """Train a phase with the encoder (or augmentation), one seed after the other."""
        shared = self.shared(index)
        # What joins the state is an argument of the program, not a constant in it.
        states, more = jax.device_get((states, self.joining(index)))
        one = lambda position: jax.tree.map(lambda x: x[position], states)
        begin = self.recipe.begin_one(index)
        shapes = jax.eval_shape(begin, one(0), more)
        training, devices = self.training, self.study.devices
        size = sum(x.size * x.dtype.itemsize for x in leaves((shapes, shared)))
        batch = self.method.config.batch_size
        mesh = training_mesh(devices, batch, training.accumulate, state_bytes=size)
        axis = DATA if devices.parallel == "pmap" else None
        step = self.recipe.step_on_pixels(index, shapes.params, axis)
        # Made in parts where parameters are cut: no device ever holds a whole state then.
        begin, done = jax.jit(begin, out_shardings=state_shardings(shapes, mesh)), []
        for position, seed in enumerate(self.training.seeds):
            given = (one(position), more)
            state = begin(*place(given, state_shardings(given, mesh)))
            state = self.fit_seed(index, seed, state, step, mesh)
            last = index == len(self.spans) - 1
            done.append(fetch(state._replace(opt_state=()) if last else state))
        return jax.tree.map(lambda *x: np.stack(x), *done)

    def fit_seed(self, index: int, seed: int, state: TrainState, step, mesh: Mesh) -> TrainState:
        """Train one seed of a phase from pixels."""
        phase, span, every = self.method.phases[index], self.spans[index], self.per_epoch
        until, data, shared = span.start + span.steps, self.method.data, self.shared(index)
        batching = Batching(seed, self.method.config.batch_size, self.sampler, processes.place())
        source, target = self.images()
        devices, training, saved = (
            self.study.devices,
            self.training,
            every * self.training.save_every,
        )
        first = seed == self.training.seeds[0]
        trace = wanted_trace(devices.profile, self.workdir) if first else None

        def describe(_, done):
            return {"epoch": done // every, **self.recipe.rates(index, 0, done - 1)}

        def evaluate(params):
            stacked = jax.tree.map(lambda x: x[None], fetch(params))
            run = (phase, data.target)
            return {"evaluation": self.validation.measure([run], stacked, shared)}

        with Notice() as notice, self.checkpointer(phase, seed) as checkpointer:
            return fit_stream(
                step,
                state,
                lambda first: paired_batches(
                    source, target, batching, first=first, last=until, workers=data.workers
                ),
                Steps(
                    phase.name,
                    until,
                    log_every=every,
                    save_every=saved,
                    evaluate_every=saved,
                    tags={"seed": seed},
                    mesh=mesh,
                    parallel=devices.parallel,
                    trace=trace,
                ),
                Outputs(
                    checkpointer,
                    self.log,
                    evaluate=evaluate,
                    describe=lambda _, n: {
                        "epoch": n // every,
                        **self.recipe.rates(index, 0, n - 1),
                    },
                    stop=notice.reached,
                    enough=functools.partial(self.enough, index, run=training.seeds.index(seed)),
                    say=self.say,
                ),
                *filter(None, [shared]),
            )

    def images(self) -> tuple[Crops, Crops | None]:
        """Return the images that the method reads: of the source, and of the target or None."""
        features, data = self.training_features(), self.method.data
        more = {
            name: {key: part[key] for key in ("zero_shot", "domain", EMBEDDING) if key in part}
            for name, part in features.items()
        }
        source = self.encoded.crops(data.labelled, "train", data)
        if "target" not in features:
            return source.beside(**more["source"]), None
        target = self.encoded.crops(data.target, "train")
        return source.beside(**more["source"]), target.beside(**more["target"])
