"""Trains a segmentation run's decoders: methods of one kind by one compiled program."""

import functools
import operator
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.segment import Segmenter, make_segmenter, told
from clipjax.adapt.step import init_state, make_step, merge
from clipjax.data.loading.sampler import ONE_PASS, epoch_key
from clipjax.data.loading.workers import load_ahead
from clipjax.log import MetricsLog
from clipjax.model.decoders import DECODERS, resize_map
from clipjax.study.segmentation_config import SegmentationMethod
from clipjax.study.segmentation_maps import Encoded
from clipjax.study.segmentation_plan import Plan
from clipjax.study.segmentation_statistics import with_statistics
from clipjax.study.workdir import run_name
from clipjax.train.arrays import Epochs, epochs_program, fit_arrays, run_mesh
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.distributed.sharding import batch_mesh, fetch
from clipjax.train.journal import Outputs
from clipjax.train.optim import make_optimizer
from clipjax.train.preemption import Notice
from clipjax.train.schedules import make_schedule
from clipjax.train.stream import Steps, fit_stream

PyTree = Any


class Compiled(NamedTuple):
    """What methods of one kind share, which differ in what they are told alone."""

    begin: Callable  # seeds uint32 [R] -> states, stacked
    step: Callable
    program: Callable  # of `epochs_program`


class Trainer:
    """Trains methods on maps that are kept, or from images where these are not.

    Args:
      plan: of the run.
      workdir: gets checkpoints and metrics.
      say: prints a line.
      class_weights: kind of labels -> float32 [K], or None for 1 each.
      cached: whether maps are kept.
    """

    def __init__(
        self,
        plan: Plan,
        workdir: pathlib.Path,
        say: Callable[[str], None],
        class_weights: Mapping[str, np.ndarray | None],
        cached: bool,
    ):
        self.plan, self.workdir, self.say = plan, workdir, say
        self.class_weights, self.cached = class_weights, cached
        self.log = MetricsLog(workdir / "metrics.jsonl")
        self._made: dict[tuple, Segmenter] = {}
        self._compiled: dict[tuple, Compiled] = {}
        self._answers: dict[tuple, Callable] = {}

    def train(self, method: SegmentationMethod, data: Encoded, name: str) -> PyTree:
        """Train a method as `name`; return its parameters, stacked over seeds.

        With statistics of a batch these have those of the training set beside them.
        """
        params = self._trained(method, data, name)
        made = self._segmenter(method)
        if made.moments is None:
            return params
        passed = functools.partial(self._passed, data)
        return with_statistics(made, params, self.shared(method), self.plan.config.seeds, passed)

    def _trained(self, method: SegmentationMethod, data: Encoded, name: str) -> PyTree:
        seeds = np.array(self.plan.config.seeds, np.uint32)
        rate = method.lr or self.plan.config.lr
        key = (self._kind(method), rate, len(data))
        if key not in self._compiled:  # what a method is told is no part of it
            self._compiled[key] = self._new_program(method, len(data))
        if not self.cached:
            return self._streamed(method, self._compiled[key], data, name)
        begin, _, program = self._compiled[key]
        epochs = self._epochs(name)
        rows = {"inputs": data.maps, "label": data.masks, **data.told}
        folder = self.workdir / "checkpoints" / name
        with Notice() as notice, Checkpointer(folder, run=run_name(self.workdir)) as checkpointer:
            out = Outputs(checkpointer, self.log, say=self.say, stop=notice.reached)
            states, shared = begin(seeds), self.shared(method)
            return fit_arrays(program, states, {"source": rows}, epochs, out, shared).params

    def _epochs(self, name: str) -> Epochs:
        config = self.plan.config
        mesh = run_mesh(len(config.seeds))
        return Epochs((name,), config.epochs, config.batch_size, config.save_every, mesh=mesh)

    def _new_program(self, method: SegmentationMethod, images: int) -> Compiled:
        (start, step), trained = self.parts(method, images), self.plan.dense.trained
        every = jax.jit(jax.vmap(start, in_axes=(0, None)))
        program = epochs_program(lambda _: step, self._epochs(""))
        return Compiled(lambda seeds: every(seeds, trained), step, program)

    def parts(self, method: SegmentationMethod, images: int) -> tuple[Callable, Callable]:
        """Return (seed, what of the backbone trains) -> state, and the step of a run on `images`.

        Both are pure; the step is (state, batch, `shared`) -> (state, metrics).
        """
        config, steps, made = self.plan.config, self._steps(images), self._segmenter(method)
        rate = make_schedule("linear", method.lr or config.lr, steps, warmup=config.warmup)
        decay, rates = config.weight_decay, self.plan.dense.rates
        optimizer = make_optimizer(rate, weight_decay=decay, lr_mults=rates, clip_norm=1.0)
        parts = config.accumulate

        def start(seed, trained):
            return init_state(made.init(jax.random.key(seed), trained), optimizer, seed=seed)

        step = make_step(made.loss, optimizer, total_steps=steps, accumulate=parts)
        whole = (lambda batch: batch) if parts == 1 else made.whole
        return start, lambda state, batch, shared: step(state, whole(batch), shared)

    def answers(self, method: SegmentationMethod, *, logits: bool = False) -> Callable:
        """Return (stacked parameters, rows, rng, size) -> classes uint8 [seeds, B, *size].

        With `logits` these, float32 [seeds, B, *size, K].
        """
        key = (self._kind(method), logits)
        if key not in self._answers:
            self._answers[key] = self._answering(self._segmenter(method), logits)
        answer, shared = self._answers[key], self.shared(method)
        return lambda params, rows, rng, size: answer(params, shared, rows, rng, size)

    def _answering(self, made: Segmenter, logits: bool) -> Callable:
        finish = (lambda x: x) if logits else (lambda x: x.argmax(-1).astype(jnp.uint8))

        def one(params, shared, rows, rng, size):
            return finish(resize_map(made.logits(merge(params, shared), rows, rng), size))

        if self.plan.dense.begin is None:
            every = lambda params, *given: jax.vmap(lambda own: one(own, *given))(params)
            return jax.jit(every, static_argnums=4)
        alone = jax.jit(one, static_argnums=4)

        def answer(params, shared, rows, rng, size):
            # Where a backbone trains, a device holds one seed's: the next waits for its answers.
            # Kernels of several at once would make convolutions grouped ones, which are slow, too.
            seeds = range(len(self.plan.config.seeds))
            each = [jax.tree.map(operator.itemgetter(seed), params) for seed in seeds]
            return np.stack([np.asarray(alone(own, shared, rows, rng, size)) for own in each])

        return answer

    def shared(self, method: SegmentationMethod) -> PyTree:
        """Return what the method's loss and answers read, and no step changes."""
        backbone = {} if self.cached else {"backbone": self.plan.dense.params}
        return {"told": told_of(method, self.plan), **backbone}

    def _segmenter(self, method: SegmentationMethod) -> Segmenter:
        kind = self._kind(method)
        if kind not in self._made:
            self._made[kind] = self._new(method)
        return self._made[kind]

    def _kind(self, method: SegmentationMethod) -> tuple:
        """Return what differs from one compiled program to another.

        Where one method adds W to the prompts of a diffusion model, one that does not adds 0 W: a
        large program is compiled once, and `prompt=none` computes the same numbers.
        """
        joined = self.plan.dense.prompts is not None
        joined = joined and any(each.prompt != "none" for each in self.plan.config.decoders)
        return (*method.kind[:-1], method.kind[-1] or joined)

    def _new(self, method: SegmentationMethod) -> Segmenter:
        config, dense, reader = self.plan.config, self.plan.dense, self.plan.reader
        mask, teacher = method.decoder == "mask", self.plan.teacher
        texts = reader.texts if mask else None
        texts = teacher.texts if method.classifier == "text" else texts
        prompt = self._kind(method)[-1]
        own = method.labels == "teacher" and config.teacher.self_training < 1
        more = {"hidden": config.width} if mask else {}
        uses = prompt or method.uses_domain
        kind = DECODERS[method.decoder]
        module = kind(len(self.plan.data.classes), config.width, method.stats, **more)
        return make_segmenter(
            module,
            resize_map,
            dense.shapes,
            features=None if self.cached else dense.maps,
            descriptions=jnp.asarray(reader.descriptions) if uses else None,
            modulate=method.norm == "domino",
            prompt=prompt,
            prompts=None if dense.prompts is None else jnp.asarray(dense.prompts),
            begin=dense.begin,
            texts=None if texts is None else jnp.asarray(texts),
            class_weights=self.class_weights[method.labels],
            normaliser=config.normaliser,
            own_labels=(config.teacher.self_training, teacher.unseen) if own else None,
        )

    def _passed(self, data: Encoded, seed: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """Yield rows of the whole training set, once, and how many of them count.

        Images that are changed in every step are those of an epoch after the last.
        """
        if self.cached:
            for rows, masks in data.batches():
                real = np.arange(len(rows["embedding"])) < len(masks)
                yield rows | {"weight": real.astype(np.float32)}, len(masks)
            return
        config, last = self.plan.config, self._steps(len(data))
        until = last + -(-len(data) // config.batch_size)
        given = (data, seed, config.batch_size, config.data.workers, until, last)
        for batch in epoch_batches(*given):
            rows = dict(batch["source"])
            real = rows.pop("mask")
            del rows["label"]
            yield rows | {"weight": real.astype(np.float32)}, int(real.sum())

    def _steps(self, images: int) -> int:
        return -(-images // self.plan.config.batch_size) * self.plan.config.epochs

    def _streamed(
        self, method: SegmentationMethod, compiled: Compiled, data: Encoded, name: str
    ) -> PyTree:
        """Train the seeds of a method from images, one after the other."""
        config, done = self.plan.config, []
        last = self._steps(len(data))
        per_epoch = -(-len(data) // config.batch_size)
        steps = lambda seed: Steps(
            name,
            last,
            log_every=per_epoch,
            save_every=per_epoch * config.save_every,
            tags={"seed": seed},
            mesh=batch_mesh(config.batch_size // config.accumulate),
        )
        for seed in config.seeds:
            state = jax.tree.map(lambda x: x[0], compiled.begin(np.array([seed], np.uint32)))
            folder = self.workdir / "checkpoints" / f"{name}-seed{seed}"
            with (
                Notice() as notice,
                Checkpointer(folder, run=run_name(self.workdir)) as checkpointer,
            ):
                out = Outputs(checkpointer, self.log, say=self.say, stop=notice.reached)
                batches = functools.partial(
                    epoch_batches, data, seed, config.batch_size, config.data.workers, last
                )
                shared = self.shared(method)
                state = fit_stream(compiled.step, state, batches, steps(seed), out, shared)
            done.append(fetch(state.params))
        return jax.tree.map(lambda *x: np.stack(x), *done)


def epoch_batches(
    data: Encoded, seed: int, batch_size: int, workers: int, last: int, first: int
) -> Iterator[dict[str, dict[str, np.ndarray]]]:
    """Yield batches of steps first .. last - 1, in the order that kept maps have, read ahead.

    What is drawn of an image is a function of seed, step and its place in the batch.
    """
    per_epoch = ONE_PASS.steps(len(data), 0, batch_size)

    @functools.lru_cache(maxsize=2)
    def plan_of(epoch: int) -> dict[str, np.ndarray]:
        key = epoch_key(np.uint32(seed), epoch)
        return jax.tree.map(np.asarray, ONE_PASS.plan(key, len(data), 0, batch_size))

    def prepare(step: int) -> tuple[int, np.ndarray, np.ndarray]:
        epoch, position = divmod(step, per_epoch)
        plan = plan_of(epoch)
        return step, plan["source"][position], plan["mask"][position]

    def load(asked: tuple[int, np.ndarray, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        step, index, mask = asked
        return {"source": data.drawn(index, (seed, step)) | {"mask": mask}}

    return load_ahead(load, first, last, prepare=prepare, workers=workers)


def told_of(method: SegmentationMethod, plan: Plan) -> dict[str, float | int]:
    """Return the numbers in which methods of one kind differ."""
    shift = {"none": 0, "add": 1, "sub": -1}[method.prompt]
    return told(method.control, method.scale or plan.reader.scale, shift)
