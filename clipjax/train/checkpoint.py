"""Checkpoints by Orbax: save a train state atomically, restore the newest complete one."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import jax

from clipjax.errors import CheckpointError, ConfigError
from clipjax.io import write_errors
from clipjax.train import restore as stored
from clipjax.train.distributed.sharding import placed

PyTree = Any
# Scores of all checkpoints that have some, [{"step": int, ...}] -> steps to keep.
Best = Callable[[Sequence[dict[str, Any]]], Iterable[int]]


def warn(line: str) -> None:
    """Print a line to stderr."""
    print(line, file=sys.stderr, flush=True)


class Checkpointer:
    """Checkpoints of one training run in `directory`; incomplete ones are never seen.

    They are written in the background, from a copy: arrays given to `save` may be donated to the
    next step. If writing fails (a full disk), it says so, frees the space and keeps the checkpoints
    before. As a context manager it waits at the end for the save under way.

    Args:
      directory: a path, or `gs://bucket/folder`.
      keep: how many of the newest to keep; None for all.
      best: which of those with scores to keep as well.
      run: name of their run; those of another are refused. "" for any.
      fresh_optimizer: also restore checkpoints of another optimizer, without its state.
      say: prints a line.

    Raises:
      CheckpointError: the directory cannot be made or read.
      ConfigError: `keep` is below 1.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int | None = 2,
        best: Best | None = None,
        run: str = "",
        fresh_optimizer: bool = False,
        say: Callable[[str], None] = warn,
    ):
        import orbax.checkpoint as ocp

        if keep is not None and keep < 1:
            raise ConfigError(f"keep={keep} checkpoints leave none to go on from; give 1 or more.")
        self.directory = stored.absolute(directory)
        self._ocp, self._run, self._say = ocp, run, say
        self._fresh_optimizer, self._scored, self._saving = fresh_optimizer, bool(best), None
        options = ocp.CheckpointManagerOptions(
            create=True,
            cleanup_tmp_directories=True,  # what a killed run left half-written
            preservation_policy=_Kept(keep, best),
            # If a directory cannot be made, the threads that write into it would wait for minutes.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
            best_fn=(lambda scores: 0.0) if best else None,  # or orbax writes no scores
        )
        try:
            self._manager = ocp.CheckpointManager(
                self.directory, options=options, item_handlers=_handlers(ocp)
            )
        except write_errors(self.directory) as error:
            raise CheckpointError(
                f"no checkpoint can be kept in {self.directory}: {error}; choose another directory."
            ) from error
        # Or it asks JAX whether all processes stop at this step, past steps included, and JAX takes
        # the last question for where a process is (`clipjax.train.preemption`).
        self._manager.reached_preemption = lambda step: False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc) -> None:
        self.wait()
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest step; a checkpoint being written counts until it fails."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, oldest first."""
        return list(self._manager.all_steps())

    def save(
        self, step: int, state: PyTree, meta: dict | None = None, scores: dict | None = None
    ) -> None:
        """Write one atomic checkpoint in the background; `state` is copied before this returns.

        `step` must be larger than all before, `meta` is JSON that comes back with the state, and
        `scores` is JSON that `best` decides by.
        """
        ocp = self._ocp
        self.wait()
        self._saving = step
        try:
            meta = ocp.args.JsonSave({"run": self._run, **(meta or {})})
            both = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=meta)
            self._manager.save(step, args=both, metrics=scores if self._scored else None)
        except write_errors(self.directory) as error:
            self._failed(error)

    def wait(self) -> None:
        """Wait until everything is written; say, once, what could not be."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # of the writing thread: tensorstore raises ValueError for all
            self._failed(error)
        self._saving = None

    def _failed(self, error: Exception) -> None:
        """Say what could not be written, free its space, look what is there."""
        step, self._saving, left = self._saving, None, ""
        try:
            stored.remove_unfinished(self.directory, step)
        except write_errors(self.directory) as also:
            left = f" What was written of it could not be removed ({also})."
        try:
            self._manager.reload()  # orbax has forgotten those that this one was to replace
            there = f"step {self.latest}" if self.steps else "none"
        except write_errors(self.directory) as also:
            there = f"unknown ({also})"
        self._say(
            f"clipjax: the checkpoint {self.directory}/{step} could not be written "
            f"({stored.reason(error)}); training goes on, last good checkpoint: {there}.{left}"
        )

    def restore(
        self,
        like: PyTree,
        step: int | None = None,
        *,
        donate: bool = False,
        optimizer: bool = True,
    ) -> tuple[PyTree, dict] | None:
        """The newest (state, meta), or None if nothing was saved.

        Args:
          like: a state, or its shapes, that the checkpoint must match and whose placement the
            result has, whatever devices it was saved from.
          step: another than the newest.
          donate: free the arrays of `like` before reading.
          optimizer: False leaves the state's `opt_state` as in `like` and reads none: two thirds of
            a checkpoint.

        Raises:
          CheckpointError: the checkpoint is of another run, optimizer or structure, or damaged.
        """
        self.wait()
        if self.latest is None:
            return None
        place = self.directory / str(self.latest if step is None else step)
        meta, wanted = stored.read_meta(place, self._run), placed(like)
        changed = stored.differences(place, wanted)
        if not optimizer:
            changed = [line for line in changed if not stored.of_optimizer(line)]
        fresh = self._fresh_optimizer and changed and all(map(stored.of_optimizer, changed))
        if fresh:
            self._say(
                f"clipjax: the optimizer state of {place} is of another optimizer; parameters and "
                "step are taken, the optimizer starts anew."
            )
        elif changed:
            raise stored.misfit(place, changed)
        if without := fresh or not optimizer:
            wanted = {key: x for key, x in wanted._asdict().items() if key != "opt_state"}
        if donate:
            for x in jax.tree.leaves(like._replace(opt_state=()) if without else like):
                if isinstance(x, jax.Array):
                    x.delete()
        found = stored.read_state(place, wanted)
        return (like._replace(**found) if without else found), meta


def _handlers(ocp) -> dict[str, Any]:
    """Return how orbax writes a state and what is beside it.

    Float32 weights and moments are noise to a compressor: zstd, orbax's default, takes off 8 % for
    a quarter of a save's processor time.
    """
    state = ocp.PyTreeCheckpointHandler(use_compression=False)
    return {"state": state, "meta": ocp.JsonCheckpointHandler()}


class _Kept:
    """Orbax's `PreservationPolicy`: the newest, and the best of those with scores."""

    def __init__(self, keep: int | None, best: Best | None):
        self.keep, self.best = keep, best

    def should_preserve(self, checkpoints: Sequence, *, context: Any) -> list[bool]:
        """Decide for each checkpoint, oldest first."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        staying = set(steps if self.keep is None else steps[-self.keep :])
        if self.best:
            scored = [{"step": c.step, **c.metrics} for c in checkpoints if c.metrics]
            staying |= set(self.best(scored))
        return [step in staying for step in steps]
