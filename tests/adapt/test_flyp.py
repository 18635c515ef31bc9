"""FLYP's loss: reference values, padding, and what it needs."""

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt.contrastive import info_nce
from clipjax.adapt.flyp import paired_loss
from clipjax.errors import ConfigError
from tests.conftest import methods_of
from tests.study.test_study import config_of

S = jnp.array([[0.8, 0.3, 0.5], [0.2, 0.7, 0.1], [0.4, 0.1, 0.6]])  # of images and texts
LABEL = jnp.array([0, 1, 0])
SAME = LABEL[:, None] == LABEL[None]


@pytest.mark.parametrize(
    "kind, one, ten",
    [
        ("negatives", 0.837039, 0.092724),
        ("ignored", 0.570797, 0.008730),
        ("positives", 0.920373, 0.926057),
    ],
)
def test_values_of_three_pairs_two_of_a_class(kind, one, ten):
    np.testing.assert_allclose(paired_loss(S, SAME, kind), one, atol=1e-6)
    np.testing.assert_allclose(paired_loss(10 * S, SAME, kind), ten, atol=1e-6)
    padded = paired_loss(S, SAME, kind, jnp.array([1.5, 1.5, 0.0]))  # as of the first two alone
    np.testing.assert_allclose(padded, paired_loss(S[:2, :2], SAME[:2, :2], kind), atol=1e-6)


def test_it_is_clips_own_loss():
    np.testing.assert_allclose(paired_loss(S, SAME), info_nce(S, jnp.eye(3), 1.0), rtol=1e-6)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"heads": {}}, "flyp compares with prompts; use heads = "),
        ({"same_class": "none"}, "unknown same_class 'none'; known: negatives, positives, ignored"),
    ],
)
def test_what_it_cannot_do_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        methods_of(config_of("", "tiny", m={"loss": "flyp", "heads": {"text": True}} | change))
