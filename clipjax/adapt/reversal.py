"""A method whose loss reverses a gradient between heads and features: DANN, CDAN, MCD."""

from collections.abc import Callable, Mapping
from typing import Any

from clipjax.adapt.grl import Schedule, lambda_schedule
from clipjax.adapt.method import Backbone, Head, Method, with_head
from clipjax.adapt.step import Loss

SCHEDULED = ("schedule", "lam_max", "gamma", "start")  # options that make lambda's schedule


def with_reversal(
    backbone: Backbone,
    head: Head,
    loss_of: Callable[..., Loss],
    schedules: Mapping[str, Schedule] | None,
    joined: bool | None,
    options: Mapping[str, Any],
    **more: Any,
) -> Method:
    """`with_head` of a loss of both domains that reverses a gradient.

    `loss_of(schedule=, joined=, **options)` gets `schedules["lam"]`, or the schedule that the
    options name (`SCHEDULED`), and `joined`, by default where embeddings are cached.
    """
    named = {key: options[key] for key in SCHEDULED if key in options}
    rest = {key: value for key, value in options.items() if key not in named}
    lam = (schedules or {}).get("lam") or lambda_schedule(named.pop("schedule", "ganin"), **named)
    joined = "image" in backbone.cached if joined is None else joined
    return with_head(
        backbone,
        head,
        loss_of(schedule=lam, joined=joined, **rest),
        reads=("source", "target"),
        schedules={"lam": lam},
        scheduled=SCHEDULED,
        **more,
    )
