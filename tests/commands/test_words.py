"""`clipjax COMMAND ...`: words, options and help, in processes that never import JAX."""

import os
import re
import subprocess
import sys

import pytest

from clipjax.commands.cli import COMMANDS
from clipjax.model.heads import Heads
from clipjax.study import entry_fields, loss_options, methods
from clipjax.study.options import HEADS, OPTIONS, meaning
from tests.conftest import REPO

# Prints what a run would be given, in place of running it.
SHOW = """
from absl import flags
from clipjax.commands import cli, run
from clipjax.commands.configfile import as_mapping
from clipjax.study import fields, parse

def show():
    config = as_mapping(flags.FLAGS.config)
    parse(config)
    print(fields.dotted(config) | {"workdir": flags.FLAGS.workdir})

run.main = show
cli.start("run")
"""


def python(*words, cwd=REPO):
    env = os.environ | {"JAX_PLATFORMS": "no_such_platform", "PYTHONPATH": str(REPO)}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def clipjax(*words, cwd=REPO):
    return python("-m", "clipjax", *words, cwd=cwd)


@pytest.mark.parametrize(
    "words, found",
    [
        ("dann source=photo target=scan root=/a,b", {"data.source": "photo", "data.root": "/a,b"}),
        ("epochs=3 --workdir w", {"epochs": 3, "experiment": "dann", "workdir": "w"}),
        ("dann epochs=5 --config.epochs=6", {"epochs": 6}),  # the last one counts
        ("dann --config.epochs=6 epochs=5", {"epochs": 5}),
        ("tables:3 smoke --config.epochs=4", {"experiment": "table3", "epochs": 4, "seeds": (0,)}),
        ("dann smoke --config.optim.lr 3e-4", {"optim.lr": 3e-4, "seeds": (0,)}),
        ("--config.whole_domains dann model=x/y", {"whole_domains": True, "model": "x/y"}),
        ("--config=configs/dann.py:target=flat seeds=(4,5)", {"seeds": (4, 5)}),
        (
            "dann methods.dann.start=0.2 methods.dann.epochs=7 methods.dann.optim.lr=1",
            {"methods.dann.start": 0.2, "methods.dann.epochs": 7, "methods.dann.optim.lr": 1.0},
        ),
        (
            "dann methods.blend.weight=0.5 methods.dann.heads={'adapter':(9,)}",
            {"methods.blend.weight": 0.5, "methods.dann.heads.adapter": (9,)},
        ),
        (
            "pretrain augment.styles={'grey':0.5} arch.text={}",  # others are gone
            {"augment.styles.grey": 0.5, "augment.styles.ink": None, "arch.text.hidden_size": None},
        ),
    ],
)
def test_words_are_fields(words, found):
    done = python("-c", SHOW, *words.split())
    assert done.returncode == 0, done.stderr
    given = eval(done.stdout)
    assert {key: given.get(key) for key in found} == found


@pytest.mark.parametrize(
    "words, said",
    [
        ("run dann --epochs=20", r"no option --epochs; the config's field is --config.epochs=20"),
        ("run dann --lr 1", r"no option --lr; the config's field is --config.optim.lr=1\."),
        ("run dann --source=a", r"the config's field is --config.data.source=a\."),
        ("run dann --wrkdir=x", r"run has no option --wrkdir. Did you mean --workdir\?"),
        ("run dann workdir=x", r"workdir is an option of run: write --workdir=x\."),
        ("run dann epoch=3", r"no field epoch; its fields: .*, optim\.\*\. Did you mean epochs\?"),
        ("run dann methods.dann.lam=1", r"; its fields: domain_w.*mean methods.dann.lam_max\?"),
        ("run dann methods.dann.optim.lrr=1", r"Did you mean methods.dann.optim.lr\?"),
        ("run dan", r"there is no config dan; give a file, or one of anchored, .*mean dann\?"),
        ("run dann smok", r"dann: unknown word 'smok' after the config file; known: .*smoke\."),
        ("run dann epochs=x", r"--config.epochs=x: invalid literal for int"),
        ("suite x", r"suite: unexpected word 'x'; options start with --"),
        ("export --ot=x", r"export has no option --ot. Did you mean --out\?"),
        ("rnu", r"there is no command rnu. Did you mean run\?"),
    ],
)
def test_wrong_words_are_answered_in_a_line(words, said):
    done = clipjax(*words.split())
    assert done.returncode == 1 and re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr and (len(done.stderr.splitlines()) == 1 or words == "rnu")


@pytest.mark.parametrize("word", ["-h", "--help"])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_ends_well_and_fits(command, word):
    done = clipjax(*filter(None, [command, word]))
    assert done.returncode == 0 and not done.stderr
    assert all(len(line) <= 120 for line in done.stdout.splitlines())
    assert done.stdout.startswith(f"usage: clipjax {command or 'COMMAND'}")


def test_help_has_every_field_with_its_value_and_meaning():
    said = " ".join(clipjax("run", "uda", "--help").stdout.split())
    for line in (
        "data.source= labelled domain, or several",
        "optim.lr=0.001 learning rate, at its peak",
        "--workdir=... For the run's files",
        "epochs=20 passes over the data",
        "methods.dann.lam_max=0.3 largest lambda",
        "methods.dann.start=0.0 share of the run before lambda rises",  # not in the file
        "methods.cdan.entropy=True CDAN+E",
        "dann The main job",
    ):
        assert line in said, line
    assert "steps=2300 steps of both phases" in " ".join(
        clipjax("run", "pretrain", "--help").stdout.split()
    )
    said = " ".join(clipjax("run", "vpd_smoke", "--help").stdout.split())
    for line in ("diffusion.model=random a Hub id", "methods.vpd_add.prompt=add what W does"):
        assert line in said, line


def test_every_option_of_every_loss_has_a_meaning_and_nothing_else_has():
    losses = [
        f.stem for f in (REPO / "clipjax/adapt").glob("*.py") if "def make_method" in f.read_text()
    ]
    assert len(losses) > 10
    used = set()
    for loss in losses:
        known = loss_options.options_of(methods.find_module("", loss))
        told = {k: v for k, v in entry_fields.options(loss).items() if v is not entry_fields.OPEN}
        assert entry_fields.options(loss).keys() == known.keys()
        assert told.items() <= known.items()
        if loss != "contrastive":  # of pretraining, not of a method's entry
            assert all(meaning(loss, option) for option in known), loss
        used |= {*known, *(f"{loss}.{option}" for option in known)}
    assert OPTIONS.keys() <= used
    assert HEADS.keys() == set(methods._HEADS) == entry_fields._HEADS.keys()
    assert Heads(3, **entry_fields._HEADS | {"adapter": None, "discriminator": None})


def test_a_required_option_that_is_missing_is_one_sentence():
    done = clipjax("export")
    assert done.returncode == 1
    assert done.stderr == (
        "clipjax: export needs --workdir=... and --out=...; clipjax export --help has more.\n"
    )


def test_a_reader_that_leaves_ends_a_command_quietly():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "clipjax", "run", "--help"]
    done = subprocess.run(command, cwd=REPO, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
