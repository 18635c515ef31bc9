"""Methods that train as one program: their functions, phases, states and steps."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.adapt.step import TrainState
from clipjax.data.loading import sampler as samplers
from clipjax.errors import CheckpointError
from clipjax.evaluate.select import best_steps
from clipjax.io import as_path
from clipjax.log import MetricsLog, NoLog, read_log
from clipjax.log import sinks as trackers
from clipjax.model.backbone import tower_params
from clipjax.study.encode import Encoded
from clipjax.study.episode_sizes import training_sampler
from clipjax.study.epochs import planned_epoch
from clipjax.study.evaluator import View
from clipjax.study.examples import Examples
from clipjax.study.fields import dotted, flat
from clipjax.study.parts import Data
from clipjax.study.prepared import cached_phases, feature_shapes
from clipjax.study.recipe import Ingredients, Programs
from clipjax.study.training import PhaseConfig
from clipjax.study.workdir import run_name
from clipjax.train.arrays import run_mesh
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed import processes
from clipjax.train.distributed.sharding import on_each
from clipjax.train.groups import is_frozen, split_tree

PyTree = Any


class RunGroup:
    """Methods of a run that train as one program, mostly one.

    A "run" below is a seed of a method; runs are stacked, all seeds of a method side by side.
    """

    def __init__(
        self, names: Sequence[str], encoded: Encoded, workdir, programs: Programs | None = None
    ):
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
            self.sampler = training_sampler(episodes, len(self.classes.names))
        data = self._start_data()
        given = Ingredients(
            self.methods,
            tuple(data.index(method.data) for method in self.methods),
            self.classes,
            self.plan.module,
            self.plan.preprocess,
            self.per_epoch,
            self.training.accumulate,
            self.training.save_every,
            self.plan.words,
        )
        self.recipe = (programs or Programs()).recipe(given)
        self.spans, self.total_steps = self.recipe.spans, self.recipe.total_steps
        # Steps at which runs have stopped early, kept up to date by `restore.enough`.
        self.ends: list[int | None] = []
        # Steps whose averages a valley may be of, a run each; kept up to date likewise.
        self.segments: list[set[int]] = []

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
        return View(self.encoded, self.recipe.embed)

    def _epoch_length(self) -> int:
        """Return steps of an epoch: as logged where no example is at hand (`restored`)."""
        if episodes := self.method.config.episodes:
            return episodes.count // episodes.tasks
        data, size = self.method.data, self.method.config.batch_size
        if (data.labelled, "train") in self.encoded.parts:
            sizes = [len(rows[0]) for rows in self.examples.rows().values()]
            return samplers.steps_per_epoch(*sizes, size, data.epoch)
        for record in read_log(self.log.path):
            if self.study.method_of.get(record.get("phase")) in self.names:
                return record["step"] // record["epoch"]
        return planned_epoch(data, size, self.plan.dataset)

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
        reads = (*self.method.kind.reads, *self.recipe.functions.start_reads)
        read = lambda data: Examples((data,), self.encoded).features(reads)
        given = tuple(map(read, self._starts_from()))
        return self.recipe.compiled_start(*jax.tree.map(on_each, (self._seeds(), given)))

    def start_shapes(self) -> TrainState:
        """Return the shapes of `start`, for which no features are needed."""
        given = tuple(feature_shapes(self.plan, self.method) for _ in self._starts_from())
        return jax.eval_shape(self.recipe.start, self._seeds(), given)

    def _seeds(self) -> np.ndarray:
        return np.array(self.training.seeds, np.uint32)

    def _start_data(self) -> list[Data]:
        """Return the different data of the methods."""
        return list(dict.fromkeys(method.data for method in self.methods))

    def _starts_from(self) -> list[Data]:
        """Return the different data that the methods start from; none where these need none."""
        return self._start_data() if self.recipe.functions.start else []

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

    def joining(self, index: int) -> PyTree:
        """Return the encoder's parameters that join the state with a phase."""
        if not index:
            return self.clip(0)[0]
        if self.cached[index] == self.cached[index - 1]:
            return {}
        before, now = (self.clip(i)[0].get("clip", {}) for i in (index - 1, index))
        return {"clip": {key: value for key, value in now.items() if key not in before}}

    def checkpointer(self, phase: PhaseConfig, seed: int | None = None) -> Checkpointer:
        """Open the place of a phase's states; of the last phase the best by `selection` stay."""
        training, best = self.training, None
        folder = self.workdir / "checkpoints" / phase.name
        if seed is None and (old := folder / f"seed{training.seeds[0]}").is_dir():
            told = f"{old} is of a clipjax that trained {phase.name} from pixels"
            raise CheckpointError(f"{told}; start anew in another --workdir.")
        chosen = training.selection != "last" or self.swad
        if chosen and phase is self.method.phases[-1]:
            best = functools.partial(self._kept_steps, phase, seed)
        folder = folder if seed is None else folder / f"seed{seed}"
        return Checkpointer(folder, keep=training.keep, best=best, run=run_name(self.workdir))

    def _kept_steps(self, phase: PhaseConfig, seed: int | None, scored: Sequence[Mapping]) -> set:
        """Return the steps of the last phase that stay: the best, and where means end early."""
        count, ends = max(1, self.training.keep_best), self.ends if seed is None else []
        best = best_steps(scored, self.training.selection, count, ends)
        best |= {end for end in ends if end is not None and phase.average}
        runs = self.segments
        if seed is not None and runs:
            position = self.training.seeds.index(seed)
            runs = runs[position : position + 1]
        return best.union(*runs)

    @property
    def swad(self) -> dict[str, Any] | None:
        """The options of `loss_valley` if the last phase averages by it, and its first epoch."""
        phases = self.method.phases
        if (average := phases[-1].average) is None or average.kind != "swad":
            return None
        options = {key: getattr(average, key) for key in ("converge", "tolerance", "ratio")}
        return options | {"began": sum(phase.epochs for phase in phases[:-1])}
