"""The questions to the TPU's compiler, asked of the CPU's: small models, no libtpu."""

import dataclasses
import json
import subprocess
import sys

import jax
import pytest

import clipjax.study
from clipjax.aot import ask as scaling
from clipjax.aot import report as scaling_report
from clipjax.aot.ask import Answer, Question
from clipjax.aot.compiled import Compiled
from clipjax.aot.step import abstract_step
from clipjax.aot.topology import Topology
from clipjax.configs import dann_two_stage
from clipjax.errors import ConfigError
from clipjax.model.hf.load import load_clip
from clipjax.model.hf.params import abstract_params
from clipjax.model.shapes import SHAPES, named_shape
from clipjax.study import trainer as train
from tests.conftest import REPO, parsed, small_config

# Few layers compile sooner; wide ones make parameters stand out from activations.
SMALL = small_config(
    vision=dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=1, patch_size=16),
    text=dict(num_hidden_layers=1),
)


def config(**changes):
    made = dann_two_stage.get_config("smoke")
    made.compute_dtype, made.remat, made.batch_size = "float32", "none", 2
    made.update(changes)
    return made


def study(**changes):
    return parsed(config(**changes))


def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def temporaries(made):
    step = jax.jit(made.step, donate_argnums=0)
    return step.lower(made.state, made.batch).compile().memory_analysis().temp_size_in_bytes


def encoder_moments(made):
    """Leaves of the optimizer state that belong to the encoder."""
    leaves = jax.tree_util.tree_leaves_with_path(made.state.opt_state)
    return [x for path, x in leaves if "'clip'" in jax.tree_util.keystr(path)]


@pytest.mark.slow
def test_frozen_phases_hold_neither_moments_nor_gradients_of_the_encoder():
    """The encoder runs in both phases: the frozen one augments, so features cannot be cached."""
    given = config()
    given.methods.two_stage.phases.frozen.augment = {"flip": True}
    frozen = abstract_step(parsed(given), SMALL, phase="frozen")
    unfrozen = abstract_step(parsed(given), SMALL, phase="unfrozen")
    assert not frozen.cached and "clip" in frozen.state.params
    encoder = size(unfrozen.state.params["clip"])
    assert size(encoder_moments(frozen)) == 0
    assert size(encoder_moments(unfrozen)) == pytest.approx(2 * encoder, rel=0.01)
    assert temporaries(frozen) < 0.5 * encoder
    assert temporaries(unfrozen) > 0.9 * encoder  # clipping needs all gradients at once


def test_a_cached_phase_has_no_encoder_at_all():
    made = abstract_step(study(), SMALL, phase="frozen")
    assert made.cached and set(made.state.params) == {"adapter", "classifier", "discriminator"}
    assert made.batch["target"]["inputs"].shape == (2, SMALL.projection_dim)


@pytest.mark.slow
def test_the_abstract_step_is_the_trained_one(monkeypatch, tmp_path, wee_clip, photos):
    """The program of the step that a run hands to its loop on a TPU, word for word."""
    choices = f"smoke,source=real,target=sketch,root={photos},model={wee_clip}"
    given = dann_two_stage.get_config(choices)
    given.batch_size = 4

    class Reached(Exception):
        """Training from pixels would start now."""

    def lowered(step, state, open_batches, *args):
        batch = next(open_batches(int(state.step)))
        state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)  # no place
        raise Reached(jax.jit(step).lower(state, batch).as_text())

    monkeypatch.setattr(train, "fit_stream", lowered)
    with pytest.raises(Reached) as trained:
        clipjax.study.run(parsed(given), tmp_path)
    made = abstract_step(parsed(given), load_clip(wee_clip)[0])
    text = jax.jit(made.step).lower(made.state, made.batch).as_text()
    assert len(text) > 10_000 and text == trained.value.args[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "dann"}, "no method 'dann'; known: two_stage"),
        ({"phase": "thawed"}, "no phase 'thawed'; known: frozen, unfrozen"),
    ],
)
def test_wrong_names_list_the_known(changes, message):
    with pytest.raises(ConfigError, match=message):
        abstract_step(study(), SMALL, **changes)


@pytest.mark.slow
def test_named_shapes_have_the_published_sizes():
    """Parameters of the whole model, as the safetensors of the published ones add up to."""
    published = {
        "vit_b32": 151_277_313,
        "vit_b16": 149_620_737,
        "vit_l14": 427_616_513,
        "vit_l14_336": 427_944_193,
        "vit_h14": 986_109_441,
        "vit_g14": 1_366_678_273,
    }
    counts = {
        name: sum(x.size for x in jax.tree.leaves(abstract_params(SHAPES[name]))) for name in SHAPES
    }
    assert counts == published
    with pytest.raises(ConfigError, match="no model shape 'vit_x'; known: vit_b32, "):
        named_shape("vit_x")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--topology=v5e:3x5", "clipjax: there is no topology 'v5e:3x5'; known: v4:2x2x1 "),
        ("--config.lam_max=1", "clipjax: dann_two_stage has no field lam_max"),
    ],
)
def test_the_command_answers_a_typing_error_with_a_sentence(option, message):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.compile", option],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.startswith(message), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def cpu(monkeypatch):
    """A chip that is the CPU, and the small model under the name of a large one."""
    here = Topology("v5e:1x1", "v5e", 1, (jax.devices()[0],))
    monkeypatch.setattr(scaling, "open_topology", lambda name: here)
    monkeypatch.setattr(scaling, "named_shape", lambda name: SMALL)


@pytest.mark.slow
def test_an_answer_as_text_as_a_row_and_back_from_json(cpu):
    answer = scaling.ask(study(), Question("vit_b16", "v5e:1x1", batch_size=4), lambda line: None)
    assert answer.images == 8 and answer.phase == "two_stage/unfrozen"
    text = "\n".join(scaling_report.describe(answer))
    assert "8 images a step" in text and "fits" in text and "ESTIMATE, nothing was run" in text
    assert "197 TFLOP/s in bfloat16, 819 GB/s memory, 200 GB/s" in text and "none" in text
    again = scaling_report.read_answer(json.loads(json.dumps(dataclasses.asdict(answer))))
    assert again == answer
    assert scaling_report.row(answer).count("|") == scaling_report.HEADER.splitlines()[0].count("|")
    assert "| yes |" in scaling_report.row(answer)


def test_a_batch_that_cannot_be_dealt_out_is_refused(cpu):
    with pytest.raises(ConfigError, match="batch_size=3 cannot be dealt out to 1 devices"):
        scaling.ask(study(accumulate=2), Question("vit_b16", "v5e:1x1", batch_size=3))


@pytest.mark.parametrize(
    ("changes", "question", "message"),
    [
        ({}, {"phase": "frozen"}, "two_stage/frozen trains on cached features"),
        ({}, {"fsdp": 2}, "fsdp=2 does not divide the 1 devices"),
        ({"mesh": {"data": 0, "fsdp": 2}}, {}, "fsdp=2 does not divide the 1 devices"),
        ({"mesh": {"data": 4, "fsdp": 1}}, {}, "mesh.data=4 times fsdp=1 is not all of v5e:1x1"),
        ({"parallel": "pmap"}, {}, "parallel='pmap': only jit's step"),
    ],
)
def test_a_program_that_training_would_not_run_is_refused(cpu, changes, question, message):
    with pytest.raises(ConfigError, match=message):
        scaling.ask(study(**changes), Question("vit_b16", "v5e:1x1", **question))


def answer_of(peak, batch=64, fits=True, **changes) -> Answer:
    compiled = Compiled(fits, peak, 0, flops=1e12, bytes_accessed=1e9)
    question = Question("vit_b16", "v5e:1x1", batch_size=batch)
    made = Answer(question, "two_stage/unfrozen", 1, 1, 2 * batch, 1, compiled)
    return dataclasses.replace(made, **changes)


def test_a_loop_over_microbatches_gives_no_step_time():
    lines = scaling_report.estimate_lines(answer_of(2**30, accumulate=4))
    assert len(lines) == 1 and "accumulate=4 is a loop" in lines[0]


def test_what_does_not_fit_says_so():
    answer = answer_of(20 * 2**30, fits=False)
    assert "20.00 GiB of 16.00 GiB: DOES NOT FIT" in "\n".join(scaling_report.describe(answer))
    assert "| no | 20.0 | " in scaling_report.row(answer)


def test_no_batch_fits_where_parameters_alone_do_not(monkeypatch):
    refuse = lambda config, asked, say: answer_of(
        int((20 + 0.1 * asked.batch_size) * 2**30), asked.batch_size, fits=False
    )
    monkeypatch.setattr(scaling, "ask", refuse)
    first = refuse(None, Question("vit_g14", "v5e:1x1", batch_size=64), None)
    assert scaling.largest_batch(None, first) == (
        "no batch was found that fits; cut the parameters with --fsdp."
    )


@pytest.mark.parametrize("bend", [0.0, 0.5])
def test_the_largest_batch_lies_on_a_line_and_is_compiled(monkeypatch, bend):
    """Memory is 2 GiB + 0.1 GiB an image, or more than that line says beyond 100 images."""
    asked = []

    def ask(config, question, say):
        asked.append(question.batch_size)
        extra = bend if question.batch_size > 100 else 0
        peak = int((2 + 0.1 * question.batch_size + extra) * 2**30)
        return answer_of(peak, question.batch_size, peak <= 15.75 * 2**30)

    monkeypatch.setattr(scaling, "ask", ask)
    first = answer_of(int((2 + 6.4) * 2**30))
    found = scaling.largest_batch(None, first)
    assert asked[:2] == [32, 136]  # half, then where the line reaches 98 % of 16 GiB
    largest = {0.0: 136, 0.5: 131}[bend]
    assert (
        found.startswith(f"largest batch found to fit: {largest} a domain") and asked[-1] == largest
    )


def test_a_table_grows_by_rows_and_asks_nothing_twice(monkeypatch, tmp_path):
    asked = []

    def ask(config, question, say):
        asked.append(question.model)
        return answer_of(2**30, question=question)

    monkeypatch.setattr(scaling_report, "ask", ask)
    monkeypatch.setattr(scaling_report, "compiler_version", lambda: "1")  # libtpu may be missing
    page, rows = tmp_path / "page.md", tmp_path / "rows"
    page.write_text("before\n<!-- table: begin -->\nold\n<!-- table: end -->\nafter\n")
    questions = [Question(model, "v5e:1x1") for model in ("vit_b32", "vit_b16")]
    for some in (questions[:1], questions, questions):
        scaling_report.write_table(study(), some, page, rows, lambda line: None)
    assert asked == ["vit_b32", "vit_b16"]
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.count("| vit_b32 |") == text.count("| vit_b16 |") == 1


def test_a_page_without_markers_is_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match="has no lines <!-- table: begin -->"):
        scaling_report.write_table(study(), [], tmp_path / "none.md", tmp_path / "rows")
