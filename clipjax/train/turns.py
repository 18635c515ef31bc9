"""Runs that the devices do not divide, dealt out in parts of a call: no device waits for others."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PyTree = Any


def deal(runs: int, devices: int) -> list[list[tuple[int, int]]]:
    """[turn][device] -> (run, part): every run has as many parts as there are devices.

    McNaughton's wrap-around rule (1959): after `runs` turns all is done, no device was idle, and no
    run was on two devices at a time or had a part before an earlier one. There are no fewer runs
    than devices.

    >>> deal(3, 2)
    [[(0, 0), (1, 0)], [(0, 1), (2, 0)], [(1, 1), (2, 1)]]
    """
    places: list[list[tuple[int, int]]] = [[] for _ in range(runs)]
    for position in range(runs * devices):
        places[position // devices].append((position % runs, position // runs))
    turns = [[(0, 0)] * devices for _ in range(runs)]
    for run, own in enumerate(places):
        for part, (turn, device) in enumerate(sorted(own)):
            turns[turn][device] = run, part
    return turns


def fits(runs: int, mesh: Mesh | None, count: int) -> bool:
    """Whether runs that the devices of a mesh do not divide have `count` epochs in whole parts."""
    return mesh is not None and runs % mesh.size > 0 and runs > mesh.size and not count % mesh.size


def spread(runs: PyTree, mesh: Mesh | None) -> PyTree:
    """Runs dealt out to the devices of a mesh, the last one repeated until they divide evenly."""
    if mesh is None:
        return runs
    more = lambda x: np.concatenate([x, np.repeat(x[-1:], -len(x) % mesh.size, axis=0)])
    return jax.device_put(
        jax.tree.map(more, jax.device_get(runs)), NamedSharding(mesh, PartitionSpec("runs"))
    )


def gathered(states: PyTree, runs: int, mesh: Mesh | None) -> PyTree:
    """Undo `spread`: the states of all runs on one device."""
    if mesh is None:
        return states
    return jax.device_put(jax.tree.map(lambda x: x[:runs], jax.device_get(states)))


def in_turns(
    call: Callable, methods: np.ndarray, states: PyTree, first: int, count: int, mesh: Mesh
) -> tuple[PyTree, dict[str, np.ndarray]]:
    """`count` epochs of all runs, as one call makes them that lets devices wait.

    Args:
      call: (methods [devices], states, first epochs [devices], epochs) -> (states, metrics
        [devices, epochs, steps]), of runs on a device each.
      methods: int [runs].
      states: stacked over runs, on the host or on any devices.
      first, count: epochs, which `fits`.
      mesh: the devices.

    Returns:
      (states, metrics [runs, count, steps]), on the host.
    """
    runs, length, states = len(methods), count // mesh.size, jax.device_get(states)
    current = [jax.tree.map(lambda x, run=run: x[run], states) for run in range(runs)]
    found: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    for turn in deal(runs, mesh.size):
        picked = np.array([run for run, _ in turn])
        begin = np.array([first + part * length for _, part in turn], np.int32)
        given = jax.tree.map(lambda *x: np.stack(x), *(current[run] for run in picked))
        after, metrics = jax.device_get(
            call(*spread((methods[picked], given, begin), mesh), length)
        )
        for place, (run, part) in enumerate(turn):
            current[run] = jax.tree.map(lambda x, place=place: x[place], after)
            found[run, part] = {key: value[place] for key, value in metrics.items()}
    whole = lambda key, run: np.concatenate([found[run, i][key] for i in range(mesh.size)])
    measured = {key: np.stack([whole(key, run) for run in range(runs)]) for key in metrics}
    return jax.tree.map(lambda *x: np.stack(x), *current), measured
