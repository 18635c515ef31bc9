"""Which checkpoint a rule picks, on histories worked by hand."""

import copy

import pytest

from clipjax.evaluate.select import ALIASES, LABEL_FREE, RULES, select, uses_target_labels

NAN = float("nan")
COLUMNS = (
    "epoch",
    "source_val",
    "negative_entropy",
    "information_maximization",
    "soft_neighbourhood_density",
    "proxy_a_distance",
    "oracle",
    "mano",
    "nuclear_norm",
    "mixval",
    "atc",
    "doc",
)
# Every rule has its own winner; the label-free ones run away after the target accuracy's best.
HISTORY = [
    dict(zip(COLUMNS, row, strict=True))
    for row in [
        (1, 0.70, -1.2, 0.30, 2.0, 1.9, 0.40, 0.1, 0.1, 0.5, 0.1, 0.9),
        (2, 0.80, -0.9, 0.40, 2.1, 1.8, 0.55, 0.2, 0.2, 0.5, 0.2, 0.8),
        (3, 0.82, -0.8, 0.60, 2.2, 1.7, 0.50, 0.3, 0.3, 0.5, 0.3, 0.7),
        (4, 0.90, -0.7, 0.50, 2.3, 1.6, 0.45, 0.4, 0.4, 0.5, 0.4, 0.6),
        (5, 0.88, -0.5, 0.45, 2.4, 1.5, 0.35, 0.5, 0.5, 0.5, 0.5, 0.5),
        (6, 0.85, -0.6, 0.42, 2.8, 1.4, 0.30, 0.6, 0.6, 0.6, 0.6, 0.4),
        (7, 0.84, -0.65, 0.41, 2.5, 1.1, 0.25, 0.7, 0.7, 0.7, 0.7, 0.3),
        (8, 0.83, -0.66, 0.35, 2.6, 1.3, 0.20, 0.9, 0.8, 0.8, 0.8, 0.2),
        (9, 0.83, -0.66, 0.35, 2.6, 1.3, 0.20, 0.8, 0.9, 0.8, 0.8, 0.2),
        (10, 0.83, -0.66, 0.35, 2.6, 1.3, 0.20, 0.8, 0.8, 0.9, 0.8, 0.2),
        (11, 0.83, -0.66, 0.35, 2.6, 1.3, 0.20, 0.8, 0.8, 0.8, 0.9, 0.2),
        (12, 0.83, -0.66, 0.35, 2.6, 1.3, 0.20, 0.8, 0.8, 0.8, 0.8, 0.2),
    ]
]
WINNERS = {
    "last": 12,
    "source_val": 4,
    "negative_entropy": 5,
    "information_maximization": 3,
    "soft_neighbourhood_density": 6,
    "proxy_a_distance": 7,
    "oracle": 2,
    "mano": 8,
    "nuclear_norm": 9,
    "mixval": 10,
    "atc": 11,
    "doc": 1,
}


@pytest.mark.parametrize("rule, epoch", WINNERS.items())
def test_every_rule_has_its_own_winner(rule, epoch):
    assert select(HISTORY, rule) is HISTORY[epoch - 1]


def test_rules_are_complete_and_the_label_free_default_is_one_of_them():
    assert set(RULES) == set(WINNERS) and set(ALIASES.values()) <= set(RULES)
    assert select(HISTORY, "label_free") is select(HISTORY, LABEL_FREE)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_records_does_not_matter_and_nothing_is_changed(rule):
    before = copy.deepcopy(HISTORY)
    assert select(HISTORY[::-1], rule) is select(HISTORY, rule)
    assert before == HISTORY


def test_ties_go_to_the_later_epoch():
    history = [
        {"epoch": e, "source_val": s, "proxy_a_distance": d}
        for e, s, d in [(1, 0.9, 1.5), (3, 0.9, 1.5), (2, 0.8, 1.6)]
    ]
    assert select(history, "source_val")["epoch"] == 3
    assert select(history, "proxy_a_distance")["epoch"] == 3


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf"), None])
@pytest.mark.parametrize("rule", ["source_val", "proxy_a_distance"])
def test_what_is_no_number_never_wins(rule, bad):
    history = [{"epoch": 1, rule: bad}, {"epoch": 2, rule: 0.3}, {"epoch": 3, rule: bad}]
    assert select(history, rule)["epoch"] == 2
    assert select(history[:2][::-1], rule)["epoch"] == 2
    assert select(history, "last")["epoch"] == 3
    with pytest.raises(ValueError, match=f"no epoch has a score '{rule}'"):
        select([{"epoch": 1, rule: bad}, {"epoch": 2}], rule)


def test_only_the_oracle_uses_target_labels():
    assert [rule for rule in (*RULES, *ALIASES) if uses_target_labels(rule)] == ["oracle"]


def test_an_unknown_rule_is_answered_with_those_there_are():
    for call in (lambda: select(HISTORY, "best"), lambda: uses_target_labels("best")):
        with pytest.raises(ValueError, match="'best'") as error:
            call()
        assert all(rule in str(error.value) for rule in (*RULES, *ALIASES))


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="empty.*source_val"):
        select([], "last")
