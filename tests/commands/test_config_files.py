"""A user's own config file: whatever is wrong with it is said in one sentence, as of an option."""

import re

import ml_collections
import pytest

from clipjax.commands.configfile import Files, config_complaint, load_config, shipped_configs
from clipjax.configs import dann, pretrain, tables
from clipjax.errors import ConfigError, DataError
from clipjax.model.hf.hub import find_model
from clipjax.study import run
from clipjax.study.pretrain import clip_config
from tests.conftest import methods_of, parsed

HEAD = "import ml_collections\nfrom clipjax.configs import common, dann, pretrain\n\n"
MINE = HEAD + "def get_config():\n    config = dann.get_config()\n    {}\n    return config\n"


@pytest.fixture
def complaint(tmp_path):
    """(text of a file, what follows its name, options) -> what the command line says of them."""

    def of(text, argument="", *options):
        file = tmp_path / "mine.py"
        file.write_text(text)
        found = config_complaint([f"--config={file}{argument}", *options])
        assert len(found.splitlines()) <= 1 and "Traceback" not in found
        return found.replace(f"{tmp_path}/", "")

    return of


@pytest.mark.parametrize(
    "line, words",
    [
        ("config.stagse = ('dann',)", r"mine.py has no field stagse; its fields: .*mean stages\?"),
        ("config.epoch = 3", r"no field epoch; .*mean epochs\?"),
        ("config.lr = 1e-3", r"no field lr; .*mean optim.lr\?"),
        ("config.optm = {'lr': 1e-3}", r"no field optm; .*mean optim\?"),
        ("config.optim.learning_rate = 1e-3", r"no field optim.learning_rate; .*mean optim.lr\?"),
        ("config.data.sorce = 'flat'", r"no field data.sorce; .*mean data.source\?"),
        ("config.stages = 'dann'", r"mine.py, line 6: stages is 'dann'; give a tuple, as in \('da"),
        ("config.seeds = 0", r"line 6: seeds is 0; give a tuple, as in \(0,\)"),
        ("config.epochs = 3.5", "line 6: epochs is 3.5; give a whole number"),
        ("config.data.epoch = 300", "line 6: epoch is 300; give a text, as in '300'"),
        ("config.epochs = True", "epochs is True; give a whole number"),
        ("config.optim.lr = '1e-3'", "line 6: lr is '1e-3'; give a number"),
        ("config.data = 'photos'", "line 6: data is 'photos'; give a dict of its fields"),
        ("del config.experiment", "has no experiment; give the run a name"),
        ("del config.features", "^$"),  # what is not there keeps its default
        ("config.data = {'root': '/x'}", "^$"),
        ("config.model = config.modle", "line 6: AttributeError: modle Did you mean .model"),
        ("open('/nowhere/x')", "line 6: FileNotFoundError: .*/nowhere/x"),
        ("1 / 0", "line 6: ZeroDivisionError: division by zero; correct the file"),
    ],
)
def test_a_line_of_a_config_file(complaint, line, words):
    found = complaint(MINE.format(line))
    assert re.search(words, found), found


@pytest.mark.parametrize(
    "body, words",
    [
        ("get_config = 3", "mine.py has no function get_config"),
        ("", "mine.py has no function get_config"),
        ("def get_config(:", "mine.py, line 4: invalid syntax"),
        ("\0", "mine.py: source code.* null bytes; correct it"),
        ("import nosuchmodule", "line 4: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("def get_config(): dann.get_config()", "mine.py returns None, no ml_collections.ConfigDi"),
        ("def get_config(): return {'epochs': 3}", "mine.py returns a dict, no ml_collections"),
        ("def get_config(): return 'dann'", "mine.py returns a str"),
        ("def get_config(): return ml_collections.ConfigDict({'model': 'tiny'})", "no experiment"),
        (
            "def get_config(): return ml_collections.ConfigDict(dict(experiment='a', stages=()))",
            "^$",
        ),
        (
            "def get_config(): return ml_collections.ConfigDict("
            "common.study().to_dict() | dict(experiment='a', epochs='4'))",
            "mine.py: epochs is '4'; give a whole number",
        ),
        ("def get_config(*, arg): return dann.get_config()", "TypeError: .*keyword-only"),
    ],
)
def test_a_whole_config_file(complaint, body, words):
    found = complaint(HEAD + body + "\n")
    assert re.search(words, found), found


@pytest.mark.parametrize("heading", ["get_config()", "get_config(arg)", "get_config(arg=None)"])
def test_get_config_with_and_without_an_argument(complaint, heading):
    takes = "arg" if "arg" in heading else ""
    text = HEAD + f"def {heading}: return dann.get_config({takes})\n"
    assert complaint(text) == complaint(text, ":") == ""
    found = complaint(text, ":smoke")
    assert found == "" if takes else "get_config of mine.py takes no argument" in found
    if takes:
        assert "unknown word 'smok' after the config file" in complaint(text, ":smok")


def test_the_flag_loads_what_was_checked(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(HEAD + "def get_config(arg): return dann.get_config(arg)\n")
    parser = Files()
    assert parser.parse(f"{file}:smoke").seeds == (0,)
    assert parser.parse(str(file)).seeds == (0, 1, 2)
    assert parser.parse(str(file)).is_locked


def test_a_placeholder_may_be_filled_by_an_option(complaint):
    line = "config.model = ml_collections.config_dict.required_placeholder(str)"
    assert complaint(MINE.format(line), "", "--config.model=tiny") == ""
    assert "did you mean optim.lr?" in complaint(MINE.format(line), "", "--config.lr=1").lower()


@pytest.mark.parametrize(
    "options, words",
    [
        (["optim={'lr': 1.0}"], "^$"),
        (["augment.styles={}"], "no field augment.styles"),  # of pretrain, not of this config
        (["methods.dann.augment={'flip': True}"], "^$"),
        (["methods.mine={'loss': 'blend'}"], "^$"),
        (["optim=sgd"], r"^optim is 'sgd'; give a dict, as in optim='\{\"key\": 1\}'\.$"),
        (["optim.lr=1", "optim={'name': 'sgd'}"], "optim is given whole and optim.lr beside it"),
        (["methods.mine.lr=1"], "no field methods.mine.lr"),
    ],
)
def test_a_dict_may_be_given_whole(complaint, options, words):
    text = MINE.format("config.stages = ('dann',)")
    found = complaint(text, "", *(f"--config.{option}" for option in options))
    assert re.search(words, found), found


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("model", None, "model is None; give a text"),
        ("stages", None, "stages is None; give a tuple of texts"),
        ("data", None, "data is None; give a dict of its fields"),
        ("optmi", 3, r"the config has no field optmi; .*mean optim\?"),
        ("experiment", "", "experiment is ''; give the run a name"),
    ],
)
def test_placeholders_that_nobody_filled_are_refused(field, value, words):
    config = dann.get_config("smoke")
    config[field] = value
    with pytest.raises(ConfigError, match=words):
        parsed(config)


def test_lists_stand_for_tuples(tmp_path):
    config = dann.get_config()
    config.data.root = str(tmp_path / "gone")
    lists = ml_collections.ConfigDict(config.to_dict() | {"seeds": [0, 1, 2], "stages": ["dann"]})
    config.stages = ("dann",)
    assert parsed(lists) == parsed(config)
    with pytest.raises(DataError, match="gone' does not exist"):  # nothing before the data
        run(parsed(lists), tmp_path / "w")


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"lam_mx": 0.3}, r"methods.dann has no option lam_mx; .*mean lam_max\?"),
        ({"epoch": 3}, r"methods.dann has no option epoch; .*mean epochs\?"),
        (
            {"optim": {"learning_rate": 3.0}},
            r"dann.optim.learning_rate.*mean methods.dann.optim.lr\?",
        ),
        ({"heads": {"clasifier": (8,)}}, r"dann.heads has no field clasifier.*mean classifier\?"),
        (
            {"phases": {"a": {"frezze": ()}}, "phase_order": ("a",)},
            r"no option frezze.*mean freeze\?",
        ),
    ],
)
def test_a_misspelt_key_of_a_method(entry, words):
    config = dann.get_config()
    config.methods.dann = config.methods.dann.to_dict() | entry
    with pytest.raises(ConfigError, match=words):
        methods_of(config)


@pytest.mark.parametrize(
    "field, words",
    [
        ("optim.weigth_decay", r"no field optim.weigth_decay.*mean optim.weight_decay\?"),
        ("augment.whit", r"no field augment.whit.*mean augment.white\?"),
        ("arch.vision.depth", "arch.vision has no field depth; .*num_hidden_layers"),
        ("step", r"no field step; .*mean steps\?"),
        ("epochs", "the config has no field epochs; its fields: .*full_steps"),
    ],
)
def test_a_misspelt_field_of_pretraining(field, words):
    config = pretrain.get_config("smoke")
    with config.unlocked():
        outer, _, last = field.rpartition(".")
        place = config
        for key in filter(None, outer.split(".")):
            place = place[key]
        place[last] = 1
    with pytest.raises(ConfigError, match=words):
        clip_config(parsed(config).arch, find_model("tiny"))


@pytest.mark.parametrize("number", tables.TABLES)
def test_the_suites_configs_have_every_field(complaint, number):
    assert config_complaint([f"--config=configs/tables.py:{number},smoke"]) == ""


@pytest.mark.parametrize("name", [name for name in shipped_configs() if "/" in name])
def test_recipes_are_found_by_name_and_say_how_they_run(name):
    config = load_config(f"{name}:smoke")
    built = methods_of(config)
    stages = {method.config.stage for method in built.values()}
    assert stages >= set(config.stages) and len(config.seeds) == 1
    assert f"clipjax run {name}" in shipped_configs()[name].read_text()
