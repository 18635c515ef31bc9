"""Trains methods: their phases one after the other, on cached features or from pixels."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.adapt.step import TrainState, init_state, make_step
from clipjax.data.augment import random_resized_crop
from clipjax.data.features import Features
from clipjax.data.order import Sampling, steps_per_epoch
from clipjax.data.pipeline import paired_batches
from clipjax.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from clipjax.evaluate.select import best_steps, select
from clipjax.log import MetricsLog, NoLog, read_log
from clipjax.model.network import Network, make_network, needed_clip
from clipjax.paths import as_path
from clipjax.train import processes
from clipjax.train.arrays import fit_arrays, run_mesh
from clipjax.train.checkpoint import Checkpointer, warn
from clipjax.train.loop import fit_stream
from clipjax.train.optim import frozen_tree, layer_groups, matches
from clipjax.train.phases import next_state, spans
from clipjax.train.preemption import Notice
from clipjax.train.sharding import DATA, fetch, on_each
from experiments.encode import Encoded
from experiments.measure import Validation
from experiments.mesh import training_mesh, wanted_trace
from experiments.methods import (
    LOSS_FACTORS,
    OPTIM_FACTORS,
    Phase,
    build_optimizer,
    learning_rate,
    own_config,
    strength,
    teams,
)
from experiments.plan import (
    Plan,
    is_cached,
    planned_epoch,
    planned_sizes,
    start_heads,
)
from experiments.run import run_name

PyTree = Any


class Trained(NamedTuple):
    """A method after training."""

    network: Network
    params: PyTree  # heads, stacked over seeds; and "clip" where the encoder trained
    history: list[list[dict]]  # per seed: the validations of the last phase, oldest first


def one_of(functions: Sequence[Callable], row: jax.Array | int) -> Callable:
    """The `row`-th of some functions of a number, where `row` may be traced."""
    if len(functions) == 1:
        return functions[0]
    return lambda x: jnp.stack([jnp.asarray(f(x), jnp.float32) for f in functions])[row]


def differing(values: Sequence[float], row: jax.Array | int) -> float | jax.Array | None:
    """The `row`-th of some numbers, where `row` may be traced; None where all are equal."""
    if len(set(values)) == 1:
        return None
    return jnp.asarray(values, jnp.float32)[row]


def trainers(config, plan: Plan, encoded: Encoded, workdir) -> list[Trainer]:
    """The config's methods, those together that can train as one program."""
    joins = lambda method: all(is_cached(plan, method, phase) for phase in method.phases)  # noqa: E731
    # Planned sizes: checkpoints of a program are found again without reading an image.
    size = lambda method: planned_sizes(own_config(config, method), plan.dataset)  # noqa: E731
    found = teams(plan.methods, joins, size)
    return [Trainer(names, config, plan, encoded, workdir) for names in found]


class Trainer:
    """Methods of a run that train as one program, mostly one; resumes where a killed run stopped.

    A "run" below is a seed of a method; runs are stacked, all seeds of a method side by side.
    """

    def __init__(self, names: Sequence[str], config, plan: Plan, encoded: Encoded, workdir):
        self.names, self.config, self.plan = tuple(names), config, plan
        self.methods = tuple(plan.methods[name] for name in names)
        self.configs = tuple(own_config(config, method) for method in self.methods)
        self.method = self.methods[0]  # for what they have in common: all but rates and lambdas
        self.encoded, self.workdir = encoded, as_path(workdir)
        events = self.workdir / "events" / names[0] if config.tensorboard else None
        log = MetricsLog if processes.is_first() else NoLog
        self.log = log(self.workdir / "metrics.jsonl", events)
        self.per_epoch = self.epoch_length()
        phases = self.method.phases
        lengths = [phase.epochs * self.per_epoch for phase in phases]
        optimizers = [phase.optim.name for phase in phases]
        self.spans = spans(lengths, [phase.freeze for phase in phases], optimizers)
        self.network = self.network_for(None)
        self.validation = Validation(self.network, config, self.method.adversarial, encoded)

    def epoch_length(self) -> int:
        """Steps of an epoch: as logged where the examples are not at hand (`restored`)."""
        data = self.config.data
        if (data.source, "train") in self.encoded.parts:
            sizes = [len(rows[0]) for rows in self.rows().values()]
            return steps_per_epoch(*sizes, self.config.batch_size, data.epoch)
        for record in read_log(self.log.path):
            if str(record.get("phase", "")).partition("/")[0] in self.names:
                return record["step"] // record["epoch"]
        return planned_epoch(self.configs[0], self.plan.dataset)

    def network_for(self, augment: dict | None) -> Network:
        """The method's network, with or without augmentation."""
        heads, normalized = self.method.heads, self.plan.preprocess.normalize
        tokens = self.encoded.tokens if heads.text else None

        def look(pixels, rng):
            if augment is not None and rng is not None:
                pixels = random_resized_crop(rng, pixels, **augment)
            return normalized(pixels)

        return make_network(self.plan.module, look, heads, tokens=tokens)

    @property
    def sampling(self) -> Sampling:
        """How an epoch is made up; its length as a number, which needs no target to be known."""
        return Sampling(self.per_epoch, self.config.data.balanced)

    @property
    def total_steps(self) -> int:
        """Of all phases."""
        return self.spans[-1].start + self.spans[-1].steps

    def train(self) -> dict[str, Trained]:
        """Runs all phases; the parameters are those of the checkpoint that `selection` picks."""
        states, cached = self.start(), True
        for index in range(len(self.spans)):
            cached = cached and is_cached(self.plan, self.method, self.method.phases[index])
            begin = functools.partial(self.begin, index, cached)
            fit = self.fit_features if cached else self.fit_pixels
            states = fit(index, states, begin)
        self.log.close()
        history = self.history()
        if self.config.selection != "last":
            states = self.selected(*self.shapes(), history)
        return self.apart(states, history)

    def apart(self, states: TrainState, history: list[list[dict]]) -> dict[str, Trained]:
        """What belongs to each method."""
        seeds, params, found = len(self.config.seeds), jax.device_get(states.params), {}
        for position, name in enumerate(self.names):
            mine = slice(position * seeds, (position + 1) * seeds)
            own = jax.tree.map(lambda x: x[mine], params)  # noqa: B023
            found[name] = Trained(self.network, own, history[mine])
        return found

    @property
    def mesh(self) -> Mesh | None:
        """The devices that share a sweep's runs.

        Without a sweep they are stacked on one: a run's numbers then stay those of before.
        """
        return run_mesh(len(self.methods) * len(self.config.seeds)) if self.config.sweep else None

    @property
    def title(self) -> str:
        """The methods in few words."""
        if not self.config.sweep:
            return " and ".join(self.names)
        stages = " and ".join(dict.fromkeys(name.split()[0] for name in self.names))
        return f"{stages}, {len(self.names)} settings"

    @property
    def described(self) -> str:
        """What is about to train, for people."""
        seeds, epochs = len(self.config.seeds), self.method.epochs
        if not self.config.sweep:
            return f"train {self.title}: {epochs} epochs, {seeds} seeds"
        runs = len(self.names) * seeds
        at_a_time = self.mesh.size if self.mesh else runs
        cached = all(is_cached(self.plan, self.method, phase) for phase in self.method.phases)
        how = f"as one program, {at_a_time} at a time" if cached else "one after the other"
        return f"train {runs} runs {how}: {self.title}, {seeds} seeds, {epochs} epochs"

    def start(self) -> TrainState:
        """States of all runs before any phase, stacked; heads only, and no optimizer state."""
        weights, scale = self.encoded.text_weights, self.encoded.scale

        def start(seed):
            heads = start_heads(self.plan, self.method, seed, weights, scale)
            return TrainState(jnp.zeros((), jnp.int32), heads, (), seed)

        seeds = np.array(tuple(self.config.seeds) * len(self.methods), np.uint32)
        return jax.jit(jax.vmap(start))(on_each(seeds))

    def setup(self, index: int, params: PyTree, row: jax.Array | int = 0):
        """(optimizer, frozen mask) of a phase over these parameters, for the `row`-th method."""
        phase, span = self.method.phases[index], self.spans[index]
        curves = [learning_rate(method.phases[index], span.steps) for method in self.methods]
        factors = {}
        for key in OPTIM_FACTORS:
            values = [method.phases[index].optim[key] for method in self.methods]
            if (value := differing(values, row)) is not None:
                factors[key] = value
        optimizer = build_optimizer(
            phase, span.steps, spans=self.spans, index=index, rate=one_of(curves, row), **factors
        )
        groups = layer_groups(params)
        here = [p for p in phase.freeze if any(matches(p, group) for group in groups)]
        return optimizer, frozen_tree(params, here) if here else None

    def begin(self, index: int, cached: bool, state: TrainState, clip: PyTree = None) -> TrainState:
        """The state of one run at the start of a phase; `clip` are parameters of the encoder."""
        more = {}
        if not cached and "clip" not in state.params:
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
            schedules = [strength(method.phases[index]) for method in self.methods]
            changes = {"schedule": one_of(schedules, row)}
        if axis_name is not None:
            changes["axis_name"] = axis_name
        for key in LOSS_FACTORS:
            values = [method.phases[index].options.get(key, 0.0) for method in self.methods]
            if (value := differing(values, row)) is not None:
                changes[key] = value
        return make_step(
            phase.make_loss(network_part, **changes),
            optimizer,
            total_steps=self.total_steps,
            frozen=frozen,
            accumulate=self.config.accumulate,
            axis_name=axis_name,
        )

    def rates(self, index: int, row: int, step: int) -> dict[str, float]:
        """Learning rates of the update after `step` updates: `lr`, and `lr:pattern` of groups."""
        phase, span = self.methods[row].phases[index], self.spans[index]
        rate = float(learning_rate(phase, span.steps)(max(0, step - span.start)))
        more = {f"lr:{pattern}": factor * rate for pattern, factor in phase.optim.lr_mults}
        return {key: float(f"{value:.6g}") for key, value in ({"lr": rate} | more).items()}

    def checkpointer(self, phase: Phase, seed: int | None = None) -> Checkpointer:
        """Where a phase's states go; of the last one the best by `selection` are kept besides."""
        config, best = self.config, None
        folder = self.workdir / "checkpoints" / phase.name
        if config.selection != "last" and phase is self.method.phases[-1]:
            best = functools.partial(
                best_steps, rule=config.selection, count=max(1, config.keep_best)
            )
        return Checkpointer(
            folder if seed is None else folder / f"seed{seed}",
            keep=config.keep,
            best=best,
            run=run_name(self.workdir),
        )

    def fit_features(self, index: int, states: TrainState, begin) -> TrainState:
        """A phase on cached features, all runs in one compiled program."""
        phase, span = self.method.phases[index], self.spans[index]
        states = jax.jit(jax.vmap(begin))(states)
        example = jax.eval_shape(lambda s: jax.tree.map(lambda x: x[0], s), states.params)
        with Notice() as notice, self.checkpointer(phase) as checkpointer, self.explained():
            return fit_arrays(
                functools.partial(self.step, index, self.network.model, example),
                states,
                self.training_features(),
                epochs=(span.start + span.steps) // self.per_epoch,
                batch_size=self.config.batch_size,
                phase=[method.phases[index].name for method in self.methods],
                checkpointer=checkpointer,
                log=self.log,
                save_every=self.config.save_every,
                sampling=self.sampling,
                rates=functools.partial(self.rates, index),
                evaluate=functools.partial(self.measure, index),
                rows=self.chosen_rows(),
                mesh=self.mesh,
                stop=notice.reached,
            )

    @contextlib.contextmanager
    def explained(self):
        """Says of a method that diverges which others stop with it."""
        try:
            yield
        except NonFiniteError as error:
            if len(self.names) == 1:
                raise
            raise NonFiniteError(
                f"{error} {', '.join(self.names)} train as one program and stop together: take the "
                "one named out of config.stages to go on with the others."
            ) from None

    @property
    def targets(self) -> tuple[str, ...]:
        """The domains that the methods adapt to."""
        return tuple(dict.fromkeys(config.data.target for config in self.configs))

    @property
    def same_data(self) -> bool:
        """Whether all methods train on the same examples."""
        return all(method.data == self.method.data for method in self.methods)

    def training_features(self) -> dict:
        """Source features with labels, target features without; all that any method takes."""
        source = self.encoded.parts[self.config.data.source, "train"]
        chosen = self.encoded.labelled_rows(self.configs[0]) if self.same_data else None
        if chosen is not None:
            source = Features(np.asarray(source.features[chosen]), source.labels[chosen])
        inputs = [self.encoded.parts[target, "train"].features for target in self.targets]
        return {
            "source": {"inputs": source.features, "label": source.labels},
            "target": {"inputs": inputs[0] if len(inputs) == 1 else np.concatenate(inputs)},
        }

    def rows(self) -> dict[str, list[np.ndarray]]:
        """For each method the rows of all its source's and all targets' training features.

        Raises:
          DataError: methods of one program have different numbers of readable images.
        """
        sizes = [len(self.encoded.parts[target, "train"].labels) for target in self.targets]
        if len(set(sizes)) > 1:
            found = ", ".join(f"{t}: {n}" for t, n in zip(self.targets, sizes, strict=True))
            raise DataError(
                f"the sweep's targets have different numbers of readable images ({found}); mend "
                "the unreadable ones or run these targets apart."
            )
        everything = np.arange(len(self.encoded.parts[self.config.data.source, "train"].labels))
        rows: dict[str, list[np.ndarray]] = {"source": [], "target": []}
        for config in self.configs:
            chosen = self.encoded.labelled_rows(config)
            rows["source"].append(everything if chosen is None else chosen)
            place = self.targets.index(config.data.target)
            rows["target"].append(np.arange(sizes[place]) + sum(sizes[:place]))
        return rows

    def chosen_rows(self) -> dict[str, np.ndarray] | None:
        """`rows` where methods differ in them."""
        if self.same_data:
            return None
        return {part: np.stack(each) for part, each in self.rows().items()}

    def measure(self, index: int, stacked) -> dict[str, list]:
        """What `Validation` finds, each method in its own target and with its own options."""
        seeds = len(self.config.seeds)
        phases = [method.phases[index] for method in self.methods for _ in range(seeds)]
        targets = [config.data.target for config in self.configs for _ in range(seeds)]
        return self.validation.measure(phases, targets, stacked)

    def fit_pixels(self, index: int, states: TrainState, begin) -> TrainState:
        """A phase that trains the encoder (or augments), one seed after the other."""
        phase = self.method.phases[index]
        model = self.network_for(phase.augment).pixel_model
        begin, step, done = jax.jit(begin), None, []
        states = jax.device_get(states)
        clip = needed_clip(self.method.heads, self.plan.params)  # an argument, not a constant
        last = index == len(self.spans) - 1
        for position, seed in enumerate(self.config.seeds):
            state = begin(jax.tree.map(lambda x: x[position], states), clip)  # noqa: B023
            axis = DATA if self.config.parallel == "pmap" else None
            step = step or self.step(index, model, state.params, axis_name=axis)  # compiled once
            state = fetch(self.fit_seed(index, seed, state, step))
            done.append(state._replace(opt_state=()) if last else state)
        return jax.tree.map(lambda *x: np.stack(x), *done)

    def fit_seed(self, index: int, seed: int, state: TrainState, step) -> TrainState:
        """One seed of a phase from pixels."""
        phase, span, every = self.method.phases[index], self.spans[index], self.per_epoch
        until, data = span.start + span.steps, self.config.data
        batches = functools.partial(
            paired_batches,
            self.encoded.crops(data.source, "train", labelled=True),
            self.encoded.crops(data.target, "train") if self.method.adversarial else None,
            seed=seed,
            batch_size=self.config.batch_size,
            last=until,
            workers=data.workers,
            process=processes.place(),
            sampling=self.sampling,
        )
        trace = wanted_trace(self.config, self.workdir) if seed == self.config.seeds[0] else None

        def evaluate(params):
            stacked = jax.tree.map(lambda x: x[None], fetch(params))
            return {"evaluation": self.validation.measure([phase], [data.target], stacked)}

        with Notice() as notice, self.checkpointer(phase, seed) as checkpointer:
            return fit_stream(
                step,
                state,
                lambda first: batches(first=first),
                until,
                mesh=training_mesh(self.config, sum(x.nbytes for x in jax.tree.leaves(state))),
                parallel=self.config.parallel,
                trace=trace,
                phase=phase.name,
                tags={"seed": seed},
                checkpointer=checkpointer,
                log=self.log,
                log_every=every,
                save_every=every * self.config.save_every,
                evaluate=evaluate,
                evaluate_every=every * self.config.save_every,
                describe=lambda n: {"epoch": n // every, **self.rates(index, 0, n - 1)},
                say=lambda line: None,
                stop=notice.reached,
            )

    def history(self) -> list[list[dict]]:
        """Per run the validations of the last phase, with their epochs, oldest first."""
        seeds = list(self.config.seeds)
        first = {m.phases[-1].name: i * len(seeds) for i, m in enumerate(self.methods)}
        found: list[list[dict]] = [[] for _ in range(len(seeds) * len(self.methods))]
        for record in processes.from_first(lambda: read_log(self.log.path)):
            if record.get("phase") not in first or "evaluation" not in record:
                continue
            here = [seeds.index(record["seed"])] if "seed" in record else range(len(seeds))
            for place, position in enumerate(here):
                values = {key: value[place] for key, value in record["evaluation"].items()}
                run = found[first[record["phase"]] + position]
                run.append({"epoch": record["epoch"], **values})
        return found

    def selected(self, like: TrainState, cached: bool, history: list[list[dict]]) -> TrainState:
        """The states of the epochs that the config's rule picks, stacked over runs.

        `like` are the shapes of the last phase's states.
        """
        phase, picked = self.method.phases[-1], []
        first = functools.partial(jax.tree.map, lambda x: x[0])
        for position, entries in enumerate(history):
            seed = self.config.seeds[position % len(self.config.seeds)]
            wanted = like if cached else jax.eval_shape(first, like)
            with self.checkpointer(phase, None if cached else seed) as checkpointer:
                found = checkpointer.restore(wanted, self.picked(entries, checkpointer.steps))
            pick = (lambda x: x[position]) if cached else (lambda x: x)  # noqa: B023
            picked.append(jax.tree.map(pick, found[0]))
        return jax.tree.map(lambda *x: np.stack([np.asarray(v) for v in x]), *picked)

    def picked(self, entries: list[dict], steps: list[int]) -> int:
        """The step that the config's rule picks of a run's validations, out of those on disk."""
        rule = self.config.selection
        there = [entry for entry in entries if entry["epoch"] * self.per_epoch in steps]
        try:
            best = select(entries, rule)
            if best not in there and (rule == "last" or not there):
                raise self.unfinished()
            taken = select(there, rule)
        except ValueError as error:
            raise ConfigError(f"selection={rule}: {error}") from None
        if taken is not best:
            warn(
                f"clipjax: epoch {best['epoch']} of {self.names[0]} is the best by {rule}, and its "
                f"checkpoint could not be written; epoch {taken['epoch']} is taken."
            )
        return taken["epoch"] * self.per_epoch

    def restored(self) -> dict[str, Trained]:
        """What `train` returned, read back; the images are not needed.

        Raises:
          CheckpointError: the method did not finish, or its checkpoints do not fit the config.
        """
        history = self.history()
        epochs = (self.spans[-1].start + self.spans[-1].steps) // self.per_epoch
        if not all(entries and entries[-1]["epoch"] == epochs for entries in history):
            raise self.unfinished()
        return self.apart(self.selected(*self.shapes(), history), history)

    def shapes(self) -> tuple[TrainState, bool]:
        """Shapes of the last phase's states, and whether it trains on cached features."""
        like, cached = jax.eval_shape(self.start), True
        for index, phase in enumerate(self.method.phases):
            cached = cached and is_cached(self.plan, self.method, phase)
            like = jax.eval_shape(jax.vmap(functools.partial(self.begin, index, cached)), like)
        return like, cached

    def unfinished(self) -> CheckpointError:
        """What to say where checkpoints are missing."""
        return CheckpointError(
            f"{self.workdir} has no checkpoint of {self.names[0]!r}; run the experiment first."
        )
