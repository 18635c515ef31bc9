"""Names of topologies, and what is said where the compiler is not installed."""

import importlib.util
import subprocess
import sys

import jax
import pytest

from clipjax.aot.topology import KNOWN, Topology, check_name, open_topology
from clipjax.errors import ConfigError


@pytest.mark.parametrize("name", ["v5e:3x5", "v9:2x2", "v5e", "", "v5p:2x4"])
def test_an_unknown_topology_lists_the_known(name):
    with pytest.raises(ConfigError, match="no topology .*v5e:1x1 2x2 2x4 .*v5p:2x2x1 "):
        check_name(name)


def test_without_libtpu_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"libtpu: pip install 'clipjax\[aot\]'"):
        open_topology("v5e:2x4")


def test_a_chip_may_be_two_devices():
    devices = (jax.devices()[0],) * 8
    assert Topology("v4:2x2x1", "v4", 4, devices).devices_per_chip == 2
    assert Topology("v5e:2x4", "v5e", 8, devices).devices_per_chip == 1


@pytest.mark.slow
def test_importing_the_package_loads_no_compiler():
    code = (
        "import sys, clipjax.aot.topology, clipjax.aot.compiled, jax\n"
        "assert 'libtpu' not in sys.modules\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_generation_has_peak_rates():
    from clipjax.aot.roofline import CHIPS

    assert set(KNOWN) == set(CHIPS)
