"""FLYP: what it needs. Values and padding of its loss are tested in test_cite.py."""

import pytest

from clipjax.errors import ConfigError
from tests.conftest import methods_of
from tests.study.test_study import config_of


@pytest.mark.parametrize(
    "change, words",
    [
        ({"heads": {}}, "flyp compares with prompts; use heads = "),
        ({"denominator": "none"}, "unknown denominator 'none'; known: exclude, negatives, diagon"),
    ],
)
def test_what_it_cannot_do_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        methods_of(config_of("", "tiny", m={"loss": "flyp", "heads": {"text": True}} | change))
