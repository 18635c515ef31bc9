"""Runs that the devices do not divide: who trains what when, and that nothing else changes."""

import json

import pytest

from clipjax.train.turns import deal
from tests import forked

# Three runs on two devices: parts of two epochs each; the fifth epoch has no whole parts.
SCRIPT = """
import json, pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from clipjax.log import read_log
from clipjax.train import arrays
from tests.train import test_arrays as cases

data, step, make = cases.problem()
states, found, logs, lengths = jax.vmap(make)(jnp.array([4, 7, 5], jnp.uint32)), [], [], []
mesh, made = arrays.run_mesh(2), arrays.epochs_program

def counted(*args):
    run = made(*args)
    return lambda *call: lengths.append(call[4]) or run(*call)

cases.epochs_program = counted
fits = arrays.fits
for name, arrays.fits in (("whole", lambda *_: False), ("turns", fits)):
    place = pathlib.Path(sys.argv[1]) / name
    place.mkdir()
    found.append(cases.fit(place, data, step, states, 5, save_every=4, mesh=mesh))
    logs.append([r | {"s_per_epoch": 0} for r in read_log(place / "metrics.jsonl")])
same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), *found)
epochs, apart = [r["epoch"] for r in logs[0]], len({str(x) for x in found[1].params["w"]})
told = {"devices": mesh.size, "same": all(jax.tree.leaves(same)), "logs": logs[0] == logs[1]}
print(json.dumps(told | {"lengths": lengths, "epochs": epochs, "apart": apart}))
"""


@pytest.mark.parametrize(("runs", "devices"), [(3, 2), (5, 3), (7, 4), (4, 3)])
def test_all_parts_are_dealt_out_in_order_to_devices_that_never_wait(runs, devices):
    turns = deal(runs, devices)
    assert len(turns) == runs and all(len(turn) == devices for turn in turns)
    for turn in turns:
        assert len({run for run, _ in turn}) == devices  # no run on two devices at a time
    for run in range(runs):
        parts = [part for turn in turns for own, part in turn if own == run]
        assert parts == list(range(devices))


def test_runs_in_turns_have_the_bits_of_runs_one_after_the_other(tmp_path):
    done = forked.run(["-c", SCRIPT, tmp_path], JAX_NUM_CPU_DEVICES="2")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "devices": 2, "same": True, "logs": True, "lengths": [4, 1, 2, 2, 2, 1],
        "epochs": [1, 2, 3, 4, 5], "apart": 3,
    }  # fmt: skip
