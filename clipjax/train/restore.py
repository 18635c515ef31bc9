"""Find and read one checkpoint on disk, and compare it with what is wanted."""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath

from clipjax.errors import CheckpointError
from clipjax.io import Path, as_path, check_reachable, is_remote, write_errors
from clipjax.train.distributed.sharding import placed
from clipjax.train.groups import path_name

PyTree = Any
_UNFINISHED = ".orbax-checkpoint-tmp"  # after the step, in the name of what is being written


def restore_params(
    directory: str | os.PathLike, *, like: PyTree = None, step: int | None = None
) -> PyTree:
    """The parameters of a checkpoint; its optimizer is not read and need not be known.

    Args:
      directory: of a `Checkpointer`, as `<workdir>/checkpoints/<phase>` of a run. Parameters that
        trained on cached features are stacked over methods and seeds.
      like: a tree of arrays, or their shapes and dtypes, whose placement the result has; by default
        all that were saved, as nested dicts, whole, on the first device.
      step: another than the newest.

    Raises:
      CheckpointError: there is no checkpoint, or it does not hold what is wanted.
    """
    place = find_step(directory, step)
    like = shapes(place).get("params") if like is None else like
    if like is None:
        raise CheckpointError(f"{place} holds no parameters: it is not of a train state.")
    if changed := [line for line in differences(place, {"params": like}) if "alone" not in line]:
        raise misfit(place, changed)
    return read_state(place, {"params": placed(like)})["params"]


def absolute(directory: str | os.PathLike) -> Path:
    """A directory as orbax takes it, absolute or `gs://`; ConfigError if it cannot be reached."""
    path = as_path(directory)
    check_reachable(path)
    return path if is_remote(path) else path.absolute()


def find_step(directory: str | os.PathLike, step: int | None = None) -> Path:
    """The folder of a checkpoint, by default the newest; CheckpointError if there is none."""
    path = absolute(directory)
    there = steps_in(path)
    if not there or step not in (None, *there):
        held = f"holds those of steps {', '.join(map(str, there))}" if there else "holds none"
        wanted = "" if step is None else f" of step {step}"
        raise CheckpointError(f"there is no checkpoint{wanted} in {path}, which {held}.")
    return path / str(there[-1] if step is None else step)


def steps_in(path: Path) -> list[int]:
    """The steps of a directory's complete checkpoints, oldest first."""
    import orbax.checkpoint as ocp

    if not path.is_dir():
        return []
    return sorted(found.step for found in ocp.path.step.standard_name_format().find_all(path))


def is_step(name: str) -> bool:
    """Return whether a folder of this name counts as a checkpoint, complete or not.

    >>> [is_step(name) for name in ("12", f"12{_UNFINISHED}", "2layers", "seed0")]
    [True, True, False, False]
    """
    return re.fullmatch(rf"(0|[1-9]\d*)({re.escape(_UNFINISHED)}.*)?", name) is not None


def shapes(place: Path) -> PyTree:
    """Shapes and dtypes of all arrays of a checkpoint, as nested dicts and lists."""
    import orbax.checkpoint as ocp

    with _readable(place):
        tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(place) / "state").tree
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def read_state(place: Path, wanted: PyTree) -> PyTree:
    """The arrays of a checkpoint that `wanted`, a tree of shapes with placements, names."""
    import orbax.checkpoint as ocp

    places = ocp.checkpoint_utils.construct_restore_args(wanted)
    how = ocp.args.PyTreeRestore(item=wanted, restore_args=places, partial_restore=True)
    with _readable(place), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(epath.Path(place) / "state", args=how)


def read_meta(place: Path, run: str = "") -> dict[str, Any]:
    """The JSON beside the arrays of a checkpoint; CheckpointError if it is of another run."""
    import orbax.checkpoint as ocp

    with _readable(place):
        meta = ocp.JsonCheckpointHandler().restore(epath.Path(place) / "meta")
    owner = meta.get("run", "")
    if run and owner and run != owner:
        raise CheckpointError(
            f"the checkpoint {place} is of another run ({owner}, this is {run}); choose another "
            "--workdir, or remove that folder."
        )
    return meta


def differences(place: Path, wanted: PyTree) -> list[str]:
    """A line for each array of a checkpoint that does not fit the wanted shapes."""
    # Paths are the same for tuples and for the lists and dicts that they are stored as.
    named = lambda tree: {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}
    shaped = lambda tree: {name: tuple(x.shape) for name, x in named(tree).items()}
    there, here = shaped(shapes(place)), shaped(wanted)
    lines = [f"{name} is not in the checkpoint" for name in here.keys() - there.keys()]
    lines += [f"{name} is in the checkpoint alone" for name in there.keys() - here.keys()]
    lines += [
        f"{name} is {there[name]} in the checkpoint and {here[name]} here"
        for name in here.keys() & there.keys()
        if here[name] != there[name]
    ]
    return sorted(lines)


def of_optimizer(difference: str) -> bool:
    """Return whether one of `differences` is in the optimizer state of a `TrainState`."""
    return difference.startswith("opt_state/")


def misfit(place: Path, changed: Sequence[str]) -> CheckpointError:
    """The error for a checkpoint with `differences`."""
    first = changed[0] + (f", and {len(changed) - 1} more" if changed[1:] else "")
    fault, remedy = f"does not fit this run ({first})", "delete that folder."
    if all(map(of_optimizer, changed)):
        fault = f"is of another optimizer ({first})"
        remedy = "take its parameters alone by Checkpointer(..., fresh_optimizer=True)."
    return CheckpointError(f"the checkpoint {place} {fault}; start in a new --workdir or {remedy}")


def remove_unfinished(directory: Path, step: int, *, patience: float = 10.0) -> None:
    """Free the space of an incomplete checkpoint; OSError (or a store's own) if it cannot.

    Other threads may still write their arrays, which fails it: it tries for `patience` seconds.
    """
    if jax.process_index():
        return
    unfinished = epath.Path(directory) / f"{step}{_UNFINISHED}"
    if is_remote(directory):  # nothing is renamed there: a file in it says that it is whole
        unfinished = epath.Path(directory) / str(step)
        if (unfinished / "commit_success.txt").exists():
            return
    end = time.monotonic() + patience
    while unfinished.exists():
        try:
            unfinished.rmtree()
        except write_errors(directory):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def reason(error: Exception) -> str:
    """The cause of an I/O error, without tensorstore's layers around it.

    >>> reason(ValueError("OUT_OF_RANGE: Error writing ...: Failed to write 9 bytes to file 4: "
    ...                   "No space left on device [os_error_code='28'] [source locations='x']"))
    'No space left on device'
    """
    text = str(error).strip() or type(error).__name__
    found = re.search(r": ([^:\[\]]+) \[os_error_code=", text)
    return found[1] if found else text.splitlines()[0][:200]


@contextlib.contextmanager
def _readable(place: Path) -> Iterator[None]:
    """Name the checkpoint in errors of reading."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(
            f"the checkpoint {place} cannot be read ({reason(error)}); remove that folder, and the "
            "run goes on from the one before."
        ) from error
