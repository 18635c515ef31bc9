"""The wheel: what is in it, and that it works beside a user's packages `configs`, `experiments`."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests.conftest import REPO


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The unpacked wheel, built without a network of a copy of the checkout's files."""
    place = tmp_path_factory.mktemp("package")
    checkout = place / "checkout"
    for name in ("clipjax", "configs", "experiments"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPO / name, checkout / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPO / name, checkout)
    build = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation"]
    with open(place / "build.log", "w") as log:
        subprocess.run([*build, "-w", place, checkout], check=True, stdout=log, stderr=log)
    (wheel,) = place.glob("clipjax-*.whl")
    zipfile.ZipFile(wheel).extractall(place / "site")
    return place / "site"


@pytest.fixture
def elsewhere(tmp_path):
    """A user's folder with packages of their own, none of which clipjax may import."""
    for name in ("configs", "experiments", "commands"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError('a user\\'s package')")
        (tmp_path / name / "dann.py").write_text("raise AssertionError('a user\\'s file')")
    return tmp_path


def clipjax(site, cwd, *words):
    """Run the console script's entry."""
    # A script's own folder comes first in its path, not the one it is started in.
    entry = "import sys; sys.path.remove(''); sys.argv[0] = 'clipjax'; "
    entry += "from clipjax.commands.cli import main; main()"
    env = os.environ | {"PYTHONPATH": str(site), "CI": "true"}
    command = [sys.executable, "-c", entry, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def test_the_wheel_has_one_package_with_everything_in_it(site):
    log = (site.parent / "build.log").read_text()
    assert "Successfully built clipjax" in log and "BuildBackendWarning" not in log
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"clipjax"}
    files_of = lambda folder: {path.relative_to(folder) for path in folder.rglob("*.py")}
    assert files_of(site / "clipjax" / "configs") == files_of(REPO / "configs")
    files = {path.relative_to(site) for path in (site / "clipjax").rglob("*") if path.is_file()}
    ours = {path.relative_to(REPO) for path in (REPO / "clipjax").rglob("*") if path.is_file()}
    lost = {path for path in ours - files if "__pycache__" not in path.parts}
    assert not lost and (site / "clipjax" / "py.typed").exists()
    (about,) = site.glob("*.dist-info")
    assert (about / "entry_points.txt").read_text().split()[-1] == "clipjax.commands.cli:main"
    assert {path.name for path in (about / "licenses").iterdir()} == {"LICENSE", "NOTICE"}


def test_commands_work_anywhere(site, elsewhere):
    done = clipjax(site, elsewhere, "inspect", "dann", "--decode=none", "--noduplicates")
    assert done.returncode == 0 and "stencil" in done.stdout, done.stderr
    assert list((elsewhere / "runs").glob("inspect-*/inspect.html"))
    (elsewhere / "helper.py").write_text("from clipjax.configs import dann")
    mine = "from helper import dann\ndef get_config(): return dann.get_config('smoke')"
    (elsewhere / "mine.py").write_text(mine)
    for words in (
        ["./mine.py", "epochs=3"],
        ["tables:5", "smoke", "source=flat"],
        ["recipes/ce_swa"],
    ):
        done = clipjax(site, elsewhere, "run", *words, "--only_check_args")
        assert done.returncode == 0, done.stderr
    done = clipjax(site, elsewhere, "run", "configs/dann.py")  # that one is the user's own
    assert done.returncode == 1 and "a user's file" in done.stderr
    assert "FILE.py" in clipjax(site, elsewhere, "run", "--help").stdout


def test_the_package_speaks_of_one_version():
    import clipjax as package

    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    citation = (REPO / "CITATION.cff").read_text()
    assert project["version"] == package.__version__
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation
