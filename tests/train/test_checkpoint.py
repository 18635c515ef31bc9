"""Checkpoints: what is kept, whose they are, and that what was saved is what was there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.adapt.step import init_state
from clipjax.errors import CheckpointError
from clipjax.train.checkpoint import Checkpointer
from clipjax.train.restore import find_step, restore_params

ADAM = optax.adam(0.1)


def state_of(params, optimizer=ADAM, step=0):
    return init_state(params, optimizer)._replace(step=jnp.int32(step))


def save(folder, step=5, params=None, **options):
    params = params or {"head": {"w": jnp.arange(6.0).reshape(2, 3)}, "clip": {"b": jnp.ones(4)}}
    state = state_of(params, step=step)
    with Checkpointer(folder, **options) as checkpointer:
        checkpointer.save(step, state)
    return state


def same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_what_is_donated_while_it_is_written_was_saved_before(tmp_path):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state, writing = {"w": jnp.zeros((500, 1000)), "step": jnp.int32(0)}, []
    with Checkpointer(tmp_path, keep=None) as checkpointer:
        for number in (1, 2, 3):
            checkpointer.save(number, state)
            writing.append(checkpointer._manager.is_saving_in_progress())
            for _ in range(3):
                state = step(state)
        for number, value in ((1, 0), (2, 3), (3, 6)):
            found, _ = checkpointer.restore(state, number)
            assert int(found["step"]) == value
            same(found["w"], np.full((500, 1000), value))
    assert any(writing)  # in the background: `save` returned before


def kept(folder, scores, **options):
    with Checkpointer(folder, **options) as checkpointer:
        for step, score in enumerate(scores, 1):
            scored = None if score is None else {"score": score}
            checkpointer.save(step, {"w": jnp.float32(step)}, scores=scored)
    return sorted(int(path.name) for path in folder.iterdir())


def two_best(scored):
    ranked = sorted(scored, key=lambda entry: entry["score"])
    return [entry["step"] for entry in ranked[-2:]]


def test_the_newest_are_kept_and_the_best_besides(tmp_path):
    assert kept(tmp_path / "a", [None] * 5, keep=2) == [4, 5]
    assert kept(tmp_path / "b", [None] * 3, keep=None) == [1, 2, 3]
    scores = [0.5, 0.9, None, 0.2, 0.1, 0.3]
    assert kept(tmp_path / "c", scores, keep=1, best=two_best) == [1, 2, 6]


def test_scores_are_remembered_by_the_next_process(tmp_path):
    kept(tmp_path, [0.9, 0.1, 0.8], keep=1, best=two_best)
    with Checkpointer(tmp_path, keep=1, best=two_best) as checkpointer:
        checkpointer.save(9, {"w": jnp.float32(9)}, scores={"score": 0.5})
        assert checkpointer.steps == [1, 3, 9]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    state = save(tmp_path, run="dann-1")
    for run in ("dann-1", ""):
        with Checkpointer(tmp_path, run=run) as checkpointer:
            same(checkpointer.restore(state)[0], state)
    with Checkpointer(tmp_path, run="dann-2") as checkpointer:
        with pytest.raises(CheckpointError, match=r"another run \(dann-1, this is dann-2\)"):
            checkpointer.restore(state)


def test_parameters_alone_need_no_optimizer(tmp_path):
    state = save(tmp_path)
    found = restore_params(tmp_path)
    same(found, state.params)
    assert found["head"]["w"].dtype == jnp.float32
    some = restore_params(tmp_path, like={"head": state.params["head"]}, step=5)
    same(some, {"head": state.params["head"]})


def test_parameters_that_are_not_there_are_named(tmp_path):
    state = save(tmp_path)
    wrong = {**state.params, "head": {"w": jnp.zeros((3, 3))}}
    says = r"params/head/w is \(2, 3\) in the checkpoint and \(3, 3\) here"
    with pytest.raises(CheckpointError, match=says):
        restore_params(tmp_path, like=wrong)
    with pytest.raises(CheckpointError, match="no checkpoint of step 4 in .* holds those of .* 5"):
        restore_params(tmp_path, step=4)
    with pytest.raises(CheckpointError, match="no checkpoint in .*nowhere"):
        restore_params(tmp_path / "nowhere")


def test_another_optimizer_is_refused_unless_asked_for(tmp_path, capsys):
    state = save(tmp_path, step=7)
    other = optax.sgd(0.1, momentum=0.9)
    like = state_of(jax.tree.map(jnp.zeros_like, state.params), other)
    like = like._replace(opt_state=jax.tree.map(lambda x: x + 3, like.opt_state))
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(CheckpointError, match="another optimizer.*fresh_optimizer=True"):
            checkpointer.restore(like)
    with Checkpointer(tmp_path, fresh_optimizer=True) as checkpointer:
        found, _ = checkpointer.restore(like)
        same(found, like._replace(step=jnp.int32(7), params=state.params))
        assert "the optimizer starts anew" in capsys.readouterr().err
        same(checkpointer.restore(state)[0], state)  # the same optimizer goes on
        assert capsys.readouterr().err == ""
        with pytest.raises(CheckpointError, match="does not fit this run"):
            checkpointer.restore(like._replace(params={"w": jnp.zeros(3)}))


def test_a_state_is_read_without_its_optimizer(tmp_path, capsys):
    state, like = save(tmp_path), state_of({"w": jnp.zeros(3)})._replace(opt_state=())
    with Checkpointer(tmp_path) as checkpointer:
        found, _ = checkpointer.restore(state._replace(opt_state=()), optimizer=False)
        same(found, state._replace(opt_state=()))
        with pytest.raises(CheckpointError, match="does not fit this run .params/clip/b"):
            checkpointer.restore(like, optimizer=False)
    assert capsys.readouterr().err == ""


def test_weights_are_not_compressed(tmp_path):
    save(tmp_path, params={"w": jnp.zeros((250, 1000))})
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert stored > 3e6  # with Adam's moments, all zeros


def test_a_damaged_checkpoint_is_named(tmp_path):
    state = save(tmp_path)
    for path in find_step(tmp_path).rglob("d/*"):
        path.write_bytes(b"?")
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(CheckpointError, match="checkpoint .*/5 cannot be read"):
            checkpointer.restore(state)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file/checkpoints"):
        Checkpointer(tmp_path / "file" / "checkpoints")
