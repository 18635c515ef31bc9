"""Two devices equal one, and padded rows change nothing: few-shot methods and adaptation."""

import json

import pytest

from tests import forked
from tests.adapt.two_devices import ADAPTED, METHODS


@pytest.fixture(scope="module")
def found():
    done = forked.run(["-m", "tests.adapt.two_devices"], JAX_NUM_CPU_DEVICES="2")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", (*METHODS, *ADAPTED))
def test_two_devices_and_padded_rows_are_the_loss_and_gradient_of_one(found, name):
    one, two, apart, most = found[name]
    assert two == pytest.approx(one, rel=1e-5) and most > 1e-4
    assert apart < 1e-4 * most  # NaN is not
