"""Orbax behind two verbs: save a train state atomically, restore the newest whole one."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from clipjax.errors import CheckpointError
from clipjax.train.sharding import placed

PyTree = Any


class Checkpointer:
    """Checkpoints of one training run in `directory`; half-written ones are never seen.

    The newest `keep` are kept, all with None. A context manager: leaving it waits for the save
    under way.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int | None = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.directory = pathlib.Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=True,
                cleanup_tmp_directories=True,  # what a killed run left half-written
            ),
        )

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *exc) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree, meta: dict | None = None) -> None:
        """Writes `state` (arrays) and `meta` (JSON) as one atomic checkpoint, in the background."""
        ocp = self._ocp
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta or {})
            ),
        )

    def restore(self, like: PyTree, step: int | None = None) -> tuple[PyTree, dict] | None:
        """The newest (state, meta), or None where nothing was saved.

        Args:
          like: a state, or its abstract shapes, that the checkpoint must match; what comes back
            lies on the same devices, whatever devices it was saved from.
          step: another than the newest.

        Raises:
          CheckpointError: the checkpoint has another structure, or is damaged.
        """
        if self.latest is None:
            return None
        ocp = self._ocp
        abstract = placed(like)
        try:
            found = self._manager.restore(
                self.latest if step is None else step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError, FileNotFoundError, TypeError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise CheckpointError(
                f"the checkpoint {self.directory}/{step or self.latest} does not fit this run "
                f"({reason}); start in a new --workdir or delete that folder."
            ) from error
        return found.state, found.meta
