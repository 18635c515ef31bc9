"""Methods that train as one program: their functions, phases, states and steps."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.adapt import average as averages
from clipjax.adapt.method import Backbone
from clipjax.adapt.method import Method as Functions
from clipjax.adapt.step import TrainState, init_state, make_step, merge
from clipjax.data.images.augment import random_resized_crop
from clipjax.data.images.randaugment import randaugment
from clipjax.data.loading import sampler as samplers
from clipjax.errors import CheckpointError
from clipjax.evaluate.select import best_steps
from clipjax.io import as_path
from clipjax.log import MetricsLog, NoLog, read_log
from clipjax.log import sinks as trackers
from clipjax.model.backbone import make_backbone, tower_params
from clipjax.study.encode import Encoded, Examples
from clipjax.study.evaluator import View, answerer
from clipjax.study.fields import dotted, flat
from clipjax.study.methods import LOSS_FACTORS, OPTIM_FACTORS, build_optimizer, learning_rate
from clipjax.study.parts import Data
from clipjax.study.plan import planned_epoch
from clipjax.study.prepared import cached_phases, feature_shapes
from clipjax.study.training import Augment, Average, PhaseConfig
from clipjax.study.workdir import run_name
from clipjax.train.arrays import run_mesh
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import processes
from clipjax.train.distributed.sharding import on_each
from clipjax.train.groups import frozen_tree, is_frozen, matches, name_tree, split_tree
from clipjax.train.phases import next_state, spans

PyTree = Any


def select_fn(functions: Sequence[Callable], row: jax.Array | int) -> Callable:
    """Return the `row`-th of some functions of a number, where `row` may be traced."""
    if len(functions) == 1:
        return functions[0]
    return lambda x: jnp.stack([jnp.asarray(f(x), jnp.float32) for f in functions])[row]


def widened(data: PyTree) -> PyTree:
    """Return arrays with floats of any size as float32."""
    wide = lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
    return jax.tree.map(wide, data)


def average_rule(average: Average | None) -> averages.Average | None:
    """Return the running mean that a phase asks for, if any."""
    option = {"uniform": "start", "ema": "decay", "beta": "b"}
    return average and getattr(averages, average.kind)(getattr(average, option[average.kind]))


def augmented(augment: Augment, pixels: jax.Array, rng: jax.Array) -> jax.Array:
    """Return pixels [B, S, S, 3] as a phase's `augment` alters them, float32 in their range."""
    crop = {"smallest": augment.smallest, "flip": augment.flip}
    if not augment.ops and not augment.cutout:
        return random_resized_crop(rng, pixels, **crop)
    one, two = jax.random.split(rng)
    more = {"ops": augment.ops, "magnitude": augment.magnitude, "square": augment.cutout}
    return randaugment(two, random_resized_crop(one, pixels, **crop), **more)


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
        self.examples = Examples([method.data for method in self.methods], encoded)
        log = MetricsLog if processes.is_first() else NoLog
        self.log = log(self.workdir / "metrics.jsonl", self._trackers())
        self.classes, self.per_epoch = encoded.classes, self._epoch_length()
        # Its length as a number, which needs no target to be known.
        self.sampler = samplers.Sampling(self.per_epoch, self.study.data.balanced)
        if episodes := self.method.config.episodes:
            sizes = dataclasses.astuple(episodes)
            self.sampler = samplers.Episodes(*sizes, len(self.classes.names))
        phases = self.method.phases
        lengths = [phase.epochs * self.per_epoch for phase in phases]
        optimizers = [phase.optim.name for phase in phases]
        self.spans = spans(lengths, [phase.freeze for phase in phases], optimizers)
        self.total_steps = sum(lengths)
        self.functions = self.method.on(self.backbone(cached=True), self.classes, phases[-1])
        self.answer = answerer(self.functions, self.classes)

    def _trackers(self) -> dict[str, Callable]:
        """Return what opens each tracker of experiments that gets the numbers."""
        run = run_name(self.workdir) or self.workdir.name
        config, place = dotted(flat(self.study)), self.workdir / "events"
        about = trackers.About(self.names[0], self.title, run, place, config)
        asked = trackers.names(self.training.track)
        return {name: functools.partial(trackers.TRACKERS[name].open, about) for name in asked}

    @functools.cached_property
    def view(self) -> View:
        """The method's features of any part: the cached ones, unless its encoder is another."""
        trained, _ = self.clip(len(self.spans) - 1)
        if "vision" not in trained.get("clip", {}) and "image" not in self.method.kind.alters:
            return View(self.encoded)
        backbone = self.backbone()
        functions = self.method.on(backbone, self.classes, self.method.phases[-1])
        return View(self.encoded, functions.embed or backbone.encode["image"])

    def _epoch_length(self) -> int:
        """Return steps of an epoch: as logged where no example is at hand (`restored`)."""
        if episodes := self.method.config.episodes:
            return episodes.count
        data, size = self.method.data, self.method.config.batch_size
        if (data.labelled, "train") in self.encoded.parts:
            sizes = [len(rows[0]) for rows in self.examples.rows().values()]
            return samplers.steps_per_epoch(*sizes, size, data.epoch)
        for record in read_log(self.log.path):
            if self.study.method_of.get(record.get("phase")) in self.names:
                return record["step"] // record["epoch"]
        return planned_epoch(data, size, self.plan.dataset)

    def backbone(self, augment: Augment | None = None, *, cached: bool = False) -> Backbone:
        """Return the encoder over images, perhaps augmented, or over cached embeddings."""
        normalized = self.plan.preprocess.normalize

        def look(pixels, rng):
            if augment is not None and rng is not None:
                pixels = augmented(augment, pixels, rng)
            return normalized(pixels)

        return make_backbone(self.plan.module, look, ("image",) if cached else ())

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
        """Return a line on what is about to train."""
        seeds, epochs = len(self.training.seeds), self.method.config.epochs
        if not self.study.sweep:
            return f"train {self.title}: {epochs} epochs, {seeds} seeds"
        runs, how = len(self.names) * seeds, "one after the other"
        if all(self.cached):
            how = f"as one program, {self.mesh.size if self.mesh else runs} at a time"
        return f"train {runs} runs {how}: {self.title}, {seeds} seeds, {epochs} epochs"

    def training_features(self) -> dict:
        """Return what the method reads of cached features: no labels of the target."""
        return self.examples.features(self.method.kind.reads)

    def start(self) -> TrainState:
        """Return states of all runs before any phase, stacked, without optimizer state."""
        read = lambda data: Examples((data,), self.encoded).features(self.method.kind.reads)
        given = tuple(map(read, self._start_data()))
        return jax.jit(self._start)(*jax.tree.map(on_each, (self._seeds(), given)))

    def start_shapes(self) -> TrainState:
        """Return the shapes of `start`, for which no features are needed."""
        given = tuple(feature_shapes(self.plan, self.method) for _ in self._start_data())
        return jax.eval_shape(self._start, self._seeds(), given)

    def _seeds(self) -> np.ndarray:
        return np.array(self.training.seeds, np.uint32)

    def _start_data(self) -> list[Data]:
        """Return the different data that the methods start from; none where these need none."""
        return list(dict.fromkeys(m.data for m in self.methods)) if self.functions.start else []

    def _start(self, seeds: jax.Array, given: tuple[PyTree, ...]) -> TrainState:
        """Return `start`, of each seed and each of the data of `_start_data`."""

        def one(data, seed):
            own = self.functions.init(jax.random.key(seed))
            own = self.functions.start(data, self.classes, own) if given else own
            return TrainState(jnp.zeros((), jnp.int32), own, (), seed)

        each = [jax.vmap(one, (None, 0))(widened(data), seeds) for data in given or ({},)]
        places = {data: place for place, data in enumerate(self._start_data())}
        runs = [each[places.get(method.data, 0)] for method in self.methods]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *runs)

    def clip(self, index: int) -> tuple[PyTree, PyTree]:
        """Return the encoder's parameters that a phase uses: of the state, and shared.

        Shared is what no phase trains: one copy for all runs, in no checkpoint.
        """
        towers = [t for t in self.method.kind.towers if t != "image" or not self.cached[index]]
        trains = lambda name: not all(is_frozen(name, p.freeze) for p in self.method.phases)
        return split_tree({"clip": tower_params(self.plan.params, towers)}, trains)

    def shared(self, index: int) -> PyTree:
        """Return parameters of a phase that nothing changes: frozen towers, a teacher."""
        _, shared = self.clip(index)
        if "teacher" not in self.method.kind.reads:
            return shared
        towers = ("text",) if self.cached[index] else ("image", "text")
        return {**shared, "teacher": tower_params(self.plan.params, towers)}

    def setup(self, index: int, params: PyTree, row: jax.Array | int = 0):
        """Return the optimizer and frozen mask of a phase, for the `row`-th method."""
        phase, span = self.method.phases[index], self.spans[index]
        curves = [learning_rate(method.phases[index], span.steps) for method in self.methods]
        get = lambda method, key: getattr(method.phases[index].optim, key)
        factors = self._varied(OPTIM_FACTORS, get, row)
        optimizer = build_optimizer(
            phase, span.steps, spans=self.spans, index=index, rate=select_fn(curves, row), **factors
        )
        names = jax.tree.leaves(name_tree(params))
        here = [p for p in phase.freeze if any(matches(p, name) for name in names)]
        return optimizer, frozen_tree(params, here) if here else None

    def _varied(self, keys: Sequence[str], get: Callable, row: jax.Array | int) -> dict:
        """Return the `row`-th method's numbers of the keys in which methods differ."""
        values = {key: [get(method, key) for method in self.methods] for key in keys}
        varied = {key: each for key, each in values.items() if len(set(each)) > 1}
        return {key: jnp.asarray(each, jnp.float32)[row] for key, each in varied.items()}

    def joining(self, index: int) -> PyTree:
        """Return the encoder's parameters that join the state with a phase."""
        if not index:
            return self.clip(0)[0]
        if self.cached[index] == self.cached[index - 1]:
            return {}
        before, now = (self.clip(i)[0].get("clip", {}) for i in (index - 1, index))
        return {"clip": {key: value for key, value in now.items() if key not in before}}

    def begin(self, index: int, state: TrainState, more: PyTree = None) -> TrainState:
        """Return a run's state at the start of a phase; `more` joins, by default `joining`."""
        more = self.joining(index) if more is None else more
        average = average_rule(self.method.phases[index].average)
        params = merge(state.params, more)
        optimizer, frozen = self.setup(index, params)
        if not index:
            return init_state(params, optimizer, seed=state.seed, frozen=frozen, average=average)
        return next_state(state, optimizer, frozen=frozen, more=more, average=average)

    def step(self, index: int, backbone: Backbone, params: PyTree, row=0, axis=None) -> Callable:
        """Return the train step of a phase, for the `row`-th method; of `pmap` with an axis."""
        phase = self.method.phases[index]
        optimizer, frozen = self.setup(index, params, row)
        return make_step(
            self.functions_of(index, backbone, row).loss,
            optimizer,
            total_steps=self.total_steps,
            frozen=frozen,
            accumulate=self.training.accumulate,
            axis_name=axis,
            average=average_rule(phase.average),
        )

    def functions_of(self, index: int, backbone: Backbone, row: jax.Array | int = 0) -> Functions:
        """Return the method in a phase, with the numbers of the `row`-th method."""
        get = lambda method, key: method.phases[index].options.get(key, 0.0)
        changes: dict[str, Any] = self._varied(LOSS_FACTORS, get, row)
        on = lambda method: method.on(backbone, self.classes, method.phases[index])
        schedules = [on(method).schedules for method in self.methods]
        if schedules[0]:
            changes["schedules"] = {
                name: select_fn([each[name] for each in schedules], row) for name in schedules[0]
            }
        return self.method.on(backbone, self.classes, self.method.phases[index], **changes)

    def rates(self, index: int, row: int, step: int) -> dict[str, float]:
        """Return learning rates after `step` updates: `lr`, and `lr:pattern` of groups."""
        phase, span = self.methods[row].phases[index], self.spans[index]
        rate = float(learning_rate(phase, span.steps)(max(0, step - span.start)))
        more = {f"lr:{pattern}": factor * rate for pattern, factor in phase.optim.lr_mults}
        return {key: float(f"{value:.6g}") for key, value in ({"lr": rate} | more).items()}

    def checkpointer(self, phase: PhaseConfig, seed: int | None = None) -> Checkpointer:
        """Open the place of a phase's states; of the last phase the best by `selection` stay."""
        training, best = self.training, None
        folder = self.workdir / "checkpoints" / phase.name
        if seed is None and (old := folder / f"seed{training.seeds[0]}").is_dir():
            told = f"{old} is of a clipjax that trained {phase.name} from pixels"
            raise CheckpointError(f"{told}; start anew in another --workdir.")
        if training.selection != "last" and phase is self.method.phases[-1]:
            best = functools.partial(
                best_steps, rule=training.selection, count=max(1, training.keep_best)
            )
        folder = folder if seed is None else folder / f"seed{seed}"
        return Checkpointer(folder, keep=training.keep, best=best, run=run_name(self.workdir))
