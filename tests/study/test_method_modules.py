"""Which methods a study takes, and what it says of those that it cannot run."""

import dataclasses

import numpy as np
import pytest

from clipjax.data.loading.sampler import Episodes, check_episodes
from clipjax.errors import CheckpointError, ConfigError, DataError
from clipjax.study import Devices, Study, Training
from clipjax.study.methods import build_methods
from clipjax.study.run_group import RunGroup

CLASSES = ("a", "b", "c")
HEADS = {"classifier": ()}
EPISODES = {"way": 2, "shot": 1, "query": 1, "count": 2}


def build(entry, **training):
    study = Study(methods={"m": entry}, stages=("m",), training=Training(**training))
    return build_methods(study, CLASSES)["m"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"loss": "contrastive"}, "reads pairs, which a study does not bring; it brings source"),
        ({"loss": "fintune", "heads": HEADS}, "has no such method.*Did you mean finetune"),
        ({"loss": "no.such"}, "'no.such' cannot be imported.*No module named"),
        ({"loss": "tests.conftest"}, "'tests.conftest' has no make_method"),
        ({"loss": "finetune"}, "has no heads; give them, {} for a linear one"),
        ({"loss": "tests.contract.prompts", "heads": HEADS}, "takes no heads; leave them out"),
        ({"loss": "tests.contract.episodes", "heads": HEADS}, "needs episodes = {'way'"),
        ({"loss": "finetune", "heads": HEADS, "episodes": EPISODES}, "takes no episodes"),
        ({"loss": "dann", "heads": HEADS}, "needs heads.discriminator, the widths of a domain"),
        ({"loss": "tests.contract.moments", "heads": HEADS, "pul": 1.0}, "Did you mean pull"),
        ({"loss": "tests.contract.prompts", "length": "two"}, "length is 'two'; give a finite"),
    ],
)
def test_what_is_wrong_with_a_method_is_said(entry, words):
    with pytest.raises(ConfigError, match=f"methods.m.*{words}"):
        build(entry)


@pytest.mark.parametrize("name", ["moments", "episodes"])
def test_losses_that_compare_examples_are_not_cut_into_parts(name):
    entry = {"loss": f"tests.contract.{name}", "heads": HEADS}
    entry |= {"episodes": EPISODES} if name == "episodes" else {}
    assert not build(entry).kind.per_example
    with pytest.raises(ConfigError, match="compares the examples of a batch.*accumulate"):
        build(entry, accumulate=2, batch_size=4)
    study = Study(methods={"m": entry}, stages=("m",), devices=Devices(parallel="pmap"))
    with pytest.raises(ConfigError, match="compares the examples of a batch.*parallel"):
        build_methods(study, CLASSES)


def test_a_method_says_what_it_reads_and_runs():
    text = build({"loss": "finetune", "heads": {"text": True}})
    assert text.kind.reads == ("source",) and text.kind.towers == ("image", "text")
    dann = build({"loss": "dann", "heads": HEADS | {"discriminator": (4,)}})
    assert dann.kind.reads == ("source", "target") and set(dann.kind.schedules) == {"lam"}
    assert not build({"loss": "tests.contract.ridge"}).trains


def test_episodes_that_the_images_cannot_fill_are_refused_by_class():
    labels = np.repeat([0, 1, 2], [5, 2, 1])
    check_episodes(Episodes(2, 1, 1, 1, 3), labels, CLASSES)
    with pytest.raises(
        DataError, match=r"need 3 labelled images.*1 classes have.*b \(2\), c \(1\)"
    ):
        check_episodes(Episodes(2, 1, 2, 1, 3), labels, CLASSES)
    # A class that is held out does not count, however many images it has.
    check_episodes(Episodes(2, 1, 1, 1, 3, left_out=(2,)), labels, CLASSES)
    with pytest.raises(DataError, match=r"of each; 1 classes have them, not c \(1\)\."):
        check_episodes(Episodes(2, 1, 1, 1, 3, left_out=(0,)), labels, CLASSES)


@pytest.mark.slow
def test_episodes_are_disjoint_and_class_after_class():
    import jax

    labels = np.repeat(np.arange(4), [6, 5, 4, 1])
    plan = Episodes(3, 2, 2, 50, 4).plan(jax.random.key(0), len(labels), 0, 0, labels)
    support, query = np.asarray(plan["support"]), np.asarray(plan["source"])
    assert support.shape == (50, 6) and query.shape == (50, 6) and plan["mask"].all()
    for one, two in zip(support, query, strict=True):
        assert not set(one) & set(two) and len(set(one) | set(two)) == 12
        for rows in (labels[one], labels[two]):
            classes = rows.reshape(3, 2)
            assert (classes == classes[:, :1]).all() and len(set(classes[:, 0])) == 3
        assert (labels[one] == labels[two]).all() and 3 not in labels[one]
    assert len({tuple(row) for row in support}) > 40  # drawn anew


def test_prompt_sets_that_are_none_are_refused():
    with pytest.raises(ConfigError, match=r"prompt 'nmae' has no \{\} and is no named set"):
        build({"loss": "prompts", "sets": ("nmae", "simple")})
    assert not build({"loss": "prompts", "sets": ("a {}", "simple")}).trains


def test_dataclasses_carry_what_entries_say():
    entry = {"loss": "finetune", "heads": HEADS, "average": {"kind": "ema", "decay": 0.9}}
    (phase,) = build(entry).phases
    assert dataclasses.asdict(phase.average)["decay"] == 0.9
    with pytest.raises(ConfigError, match="average.kind is 'emma'; known: uniform, ema, beta"):
        build(entry | {"average": {"kind": "emma"}})


@pytest.mark.parametrize(
    "average, words",
    [
        ({"start": 1.0}, "start=1 averages over no step"),
        ({"kind": "ema", "decay": 1}, "decay=1 averages over no step"),
        ({"last": 4}, r"m.average.last is 4, and it trains 3 epochs"),
        ({"last": 2, "start": 0.5}, "say twice when it begins"),
        ({"kind": "ema", "last": 2}, "last are of kind=uniform"),
        ({"kind": "beta", "every": "epoch"}, "kind=beta is of every step"),
        ({"kind": "beta", "b": 0}, "b=0 leaves kind=beta no weights"),
        ({"kind": "gauss", "mean": 2.0, "std": 1.0}, "kind=gauss weighs ends of epochs"),
        (
            {"kind": "gauss", "every": "epoch", "std": 1.0},
            "set every=epoch, and mean and std",
        ),
        ({"mean": 2.0}, "mean and std are of kind=gauss"),
    ],
)
def test_averages_over_nothing_are_refused(average, words):
    with pytest.raises(ConfigError, match=words):
        build({"loss": "finetune", "heads": HEADS, "average": average, "epochs": 3})


def test_an_average_that_no_result_is_of_is_refused():
    phases = {"one": {"average": {"kind": "ema"}}, "two": {}}
    entry = {"loss": "finetune", "heads": HEADS, "phases": phases, "phase_order": ("one", "two")}
    with pytest.raises(ConfigError, match="phases.one.average ends with its .*last phase, two"):
        build(entry)


def test_checkpoints_of_a_version_that_trained_from_pixels_are_refused(tmp_path):
    """Text heads behind a frozen image tower train on cached features now."""
    group = RunGroup.__new__(RunGroup)
    group.workdir, group.training = tmp_path, Training()
    group.method = build({"loss": "finetune", "heads": {"text": True}})
    phase = group.method.phases[0]
    with group.checkpointer(phase) as checkpointer:
        assert checkpointer.latest is None
    (tmp_path / "checkpoints" / "m" / "seed0").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="seed0 is of a clipjax that trained m from pixels"):
        group.checkpointer(phase)


def test_methods_of_one_program_keep_their_own_label_smoothing():
    """One that leaves it at its loss's default, not 0, has that beside one that sets another."""
    entry = {"loss": "shot", "heads": {}}
    assert build(entry).phases[0].options["label_smoothing"] == 0.1
    assert build(entry | {"label_smoothing": 0.0}).phases[0].options["label_smoothing"] == 0.0
    assert "label_smoothing" not in build({"loss": "blend"}).config.phases[0].options


def test_an_entry_has_a_batch_size_of_its_own():
    entry = {"loss": "finetune", "heads": HEADS, "batch_size": 12}
    assert build(entry).config.batch_size == 12
    assert build({"loss": "finetune", "heads": HEADS}, batch_size=8).config.batch_size == 8
    with pytest.raises(ConfigError, match="batch_size=12 cannot be dealt out to accumulate=5"):
        build(entry, accumulate=5, batch_size=10)
