"""Orbax behind two verbs: save a train state atomically, restore the newest whole one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from clipjax.errors import CheckpointError, ConfigError
from clipjax.io import write_errors
from clipjax.train import restore as stored
from clipjax.train.distributed.sharding import placed

PyTree = Any
# The scores of all checkpoints that have some, [{"step": int, ...}] -> the steps to keep besides.
Best = Callable[[Sequence[dict[str, Any]]], Iterable[int]]


def warn(line: str) -> None:
    """Prints a line where errors go."""
    print(line, file=sys.stderr, flush=True)


class Checkpointer:
    """Checkpoints of one training run in `directory`; half-written ones are never seen.

    Writing happens in the background, from a copy: the arrays that were given to `save` may be
    donated to the next step. Where writing fails (a full disk) that is said, what was written of
    the checkpoint is removed, and the checkpoints before it stay. A context manager: leaving it
    waits for the save under way.

    Args:
      directory: a path, or `gs://bucket/folder`.
      keep: how many of the newest are kept; all with None.
      best: which are kept besides, of those that were saved with scores.
      run: name of the run they belong to; those of another run are refused. "" for any.
      fresh_optimizer: restore a checkpoint of another optimizer too: its parameters and step, and
        the optimizer state of the state that is asked for.
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
            # Where no directory can be made, the threads that write into it would wait for minutes.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
            best_fn=(lambda scores: 0.0) if best else None,  # or orbax writes no scores
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except write_errors(self.directory) as error:
            raise CheckpointError(
                f"no checkpoint can be kept in {self.directory}: {error}; choose another directory."
            ) from error
        # It would ask JAX whether all processes stop at this step, also for steps behind them, and
        # JAX takes the last question for the place where a process is (`clipjax.train.preemption`).
        self._manager.reached_preemption = lambda step: False

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *exc) -> None:
        self.wait()
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint; one being written counts until it fails."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints there are, oldest first."""
        return list(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: PyTree,
        meta: dict | None = None,
        scores: dict[str, Any] | None = None,
    ) -> None:
        """Writes `state` (arrays) and `meta` (JSON) as one atomic checkpoint, in the background.

        Args:
          step: number of the checkpoint; larger than those there are.
          state: arrays; copied before this returns.
          meta: JSON that comes back with the state.
          scores: JSON that `best` decides by.
        """
        ocp = self._ocp
        self.wait()
        self._saving = step
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave({"run": self._run, **(meta or {})}),
                ),
                metrics=scores if self._scored else None,
            )
        except write_errors(self.directory) as error:
            self._failed(error)

    def wait(self) -> None:
        """Returns when everything is written; what could not be written is said, once."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # of the writing thread: tensorstore raises ValueError for all
            self._failed(error)
        self._saving = None

    def _failed(self, error: Exception) -> None:
        """Says what could not be written, frees its space, remembers what is there."""
        step, self._saving = self._saving, None
        left = ""
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
        self, like: PyTree, step: int | None = None, *, donate: bool = False
    ) -> tuple[PyTree, dict] | None:
        """The newest (state, meta), or None where nothing was saved.

        Args:
          like: a state, or its abstract shapes, that the checkpoint must match; what comes back
            lies on the same devices, whatever devices and mesh it was saved from.
          step: another than the newest.
          donate: free the arrays of `like` before those that take their place are read.

        Raises:
          CheckpointError: the checkpoint is of another run or optimizer, has another structure, or
            is damaged.
        """
        self.wait()
        if self.latest is None:
            return None
        place = self.directory / str(self.latest if step is None else step)
        meta, wanted = stored.read_meta(place), placed(like)
        stored.check_run(place, meta, self._run)
        changed = stored.differences(place, wanted)
        if self._fresh_optimizer and changed and all(map(stored.of_optimizer, changed)):
            self._say(
                f"clipjax: the optimizer state of {place} is of another optimizer; parameters and "
                "step are taken, the optimizer starts anew."
            )
            others = {key: x for key, x in wanted._asdict().items() if key != "opt_state"}
            if donate:
                _free(like._replace(opt_state=()))
            return like._replace(**stored.read_state(place, others)), meta
        if changed:
            raise stored.misfit(place, changed)
        if donate:
            _free(like)
        return stored.read_state(place, wanted), meta


def _free(tree: PyTree) -> None:
    for x in jax.tree.leaves(tree):
        if isinstance(x, jax.Array):
            x.delete()


class _Kept:
    """Orbax's `PreservationPolicy`: the newest, and the best of those that have scores."""

    def __init__(self, keep: int | None, best: Best | None):
        self.keep, self.best = keep, best

    def should_preserve(self, checkpoints: Sequence, *, context: Any) -> list[bool]:
        """Whether each checkpoint stays, oldest first."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        staying = set(steps if self.keep is None else steps[-self.keep :])
        if self.best:
            scored = [{"step": c.step, **c.metrics} for c in checkpoints if c.metrics]
            staying |= set(self.best(scored))
        return [step in staying for step in steps]
