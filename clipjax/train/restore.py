"""One checkpoint on disk: found and read without knowing who wrote it, compared with what is
wanted."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from clipjax.errors import CheckpointError
from clipjax.io import Path, as_path, check_reachable, is_remote, write_errors
from clipjax.train.distributed.sharding import placed

PyTree = Any
_UNFINISHED = ".orbax-checkpoint-tmp"  # after the step, in the name of what is being written


def restore_params(
    directory: str | os.PathLike, *, like: PyTree = None, step: int | None = None
) -> PyTree:
    """The parameters of a checkpoint; its optimizer need not be known and is not read.

    Args:
      directory: where a `Checkpointer` wrote, `<workdir>/checkpoints/<phase>` of a run, for
        instance. What was trained on cached features is stacked over methods and seeds.
      like: arrays or their shapes and dtypes, on whose devices (and cut up as they are) the
        parameters arrive; by default all that were saved, whole, on the first device.
      step: another than the newest.

    Returns:
      A tree like `like`; by default nested dicts of arrays in the dtypes that were saved.

    Raises:
      CheckpointError: no checkpoint is there, or it does not hold what is wanted.
    """
    place = find_step(directory, step)
    if like is None:
        like = shapes(place).get("params")
    if like is None:
        raise CheckpointError(f"{place} holds no parameters: it is not of a train state.")
    if changed := [line for line in differences(place, {"params": like}) if "alone" not in line]:
        raise misfit(place, changed)
    return read_state(place, {"params": placed(like)})["params"]


def absolute(directory: str | os.PathLike) -> Path:
    """A directory as orbax takes it: no relative path; `gs://` stays what it is.

    Raises:
      ConfigError: it is in a store that cannot be reached.
    """
    path = as_path(directory)
    check_reachable(path)
    return path if is_remote(path) else path.absolute()


def find_step(directory: str | os.PathLike, step: int | None = None) -> Path:
    """The folder of a checkpoint, the newest by default.

    Raises:
      CheckpointError: there is none.
    """
    path = absolute(directory)
    there = steps_in(path)
    if not there or step not in (None, *there):
        held = f"holds those of steps {', '.join(map(str, there))}" if there else "holds none"
        wanted = "" if step is None else f" of step {step}"
        raise CheckpointError(f"there is no checkpoint{wanted} in {path}, which {held}.")
    return path / str(there[-1] if step is None else step)


def steps_in(path: Path) -> list[int]:
    """The whole checkpoints of a directory, oldest first."""
    import orbax.checkpoint as ocp

    if not path.is_dir():
        return []
    return sorted(found.step for found in ocp.path.step.standard_name_format().find_all(path))


def is_step(name: str) -> bool:
    """Whether a folder of this name is taken for a checkpoint, whole or unfinished.

    >>> [is_step(name) for name in ("12", f"12{_UNFINISHED}", "2layers", "seed0")]
    [True, True, False, False]
    """
    return re.fullmatch(rf"(0|[1-9]\d*)({re.escape(_UNFINISHED)}.*)?", name) is not None


def shapes(place: Path) -> PyTree:
    """Shapes and dtypes of all arrays of a checkpoint, as nested dicts and lists."""
    import orbax.checkpoint as ocp

    with _readable(place):
        tree = ocp.PyTreeCheckpointHandler().metadata(_epath(place) / "state").tree
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def read_state(place: Path, wanted: PyTree) -> PyTree:
    """The arrays of a checkpoint that `wanted`, a tree of shapes with their devices, names."""
    import orbax.checkpoint as ocp

    how = ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
        partial_restore=True,
    )
    with _readable(place), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(_epath(place) / "state", args=how)


def read_meta(place: Path) -> dict[str, Any]:
    """The JSON beside the arrays of a checkpoint."""
    import orbax.checkpoint as ocp

    with _readable(place):
        return ocp.JsonCheckpointHandler().restore(_epath(place) / "meta")


def check_run(place: Path, meta: dict[str, Any], run: str) -> None:
    """Refuses a checkpoint that says to be of another run.

    Raises:
      CheckpointError: it does.
    """
    owner = meta.get("run", "")
    if run and owner and run != owner:
        raise CheckpointError(
            f"the checkpoint {place} is of another run ({owner}, this is {run}); choose another "
            "--workdir, or remove that folder."
        )


def differences(place: Path, wanted: PyTree) -> list[str]:
    """Lines on what of a checkpoint does not fit the wanted shapes, by path."""
    there, here = _by_path(shapes(place)), _by_path(wanted)
    lines = [f"{name} is not in the checkpoint" for name in here.keys() - there.keys()]
    lines += [f"{name} is in the checkpoint alone" for name in there.keys() - here.keys()]
    for name in here.keys() & there.keys():
        if here[name] != there[name]:
            lines.append(f"{name} is {there[name]} in the checkpoint and {here[name]} here")
    return sorted(lines)


def of_optimizer(difference: str) -> bool:
    """Whether one of `differences` is in the optimizer's state of a `TrainState`."""
    return difference.startswith("opt_state/")


def misfit(place: Path, changed: Sequence[str]) -> CheckpointError:
    """The sentence on a checkpoint with `differences`."""
    first = f"{changed[0]}{f', and {len(changed) - 1} more' if changed[1:] else ''}"
    if all(map(of_optimizer, changed)):
        return CheckpointError(
            f"the checkpoint {place} is of another optimizer ({first}); start in a new --workdir, "
            "or open it with Checkpointer(..., fresh_optimizer=True) to take its parameters alone."
        )
    return CheckpointError(
        f"the checkpoint {place} does not fit this run ({first}); start in a new --workdir or "
        "delete that folder."
    )


def remove_unfinished(directory: Path, step: int, *, patience: float = 10.0) -> None:
    """Frees the space of a checkpoint that could not be written to its end.

    The error of one array arrives while other threads still write theirs: what they make or rename
    meanwhile fails the removal, which is tried again for `patience` seconds.

    Raises:
      OSError: it cannot be removed (of an object store: what its client raises).
    """
    if jax.process_index():
        return
    unfinished = _epath(directory) / f"{step}{_UNFINISHED}"
    if is_remote(directory):  # nothing is renamed there: a file in it says that it is whole
        unfinished = _epath(directory) / str(step)
        if (unfinished / "commit_success.txt").exists():
            return
    given_up = time.monotonic() + patience
    while unfinished.exists():
        try:
            unfinished.rmtree()
        except write_errors(directory):
            if time.monotonic() > given_up:
                raise
            time.sleep(0.05)


def reason(error: Exception) -> str:
    """The cause in an error of writing, without tensorstore's layers around it.

    >>> reason(ValueError("OUT_OF_RANGE: Error writing ...: Failed to write 9 bytes to file 4: "
    ...                   "No space left on device [os_error_code='28'] [source locations='x']"))
    'No space left on device'
    """
    text = str(error).strip() or type(error).__name__
    found = re.search(r": ([^:\[\]]+) \[os_error_code=", text)
    return found[1] if found else text.splitlines()[0][:200]


def _epath(path: Path):
    """A path with the methods that orbax calls."""
    from etils import epath

    return epath.Path(path)


def _by_path(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Shapes by path, the same for tuples and for the lists and dicts they are stored as."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): tuple(leaf.shape) for path, leaf in leaves}


@contextlib.contextmanager
def _readable(place: Path) -> Iterator[None]:
    """Says of errors of reading which checkpoint is damaged."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(
            f"the checkpoint {place} cannot be read ({reason(error)}); remove that folder, and the "
            "run goes on from the one before."
        ) from error
