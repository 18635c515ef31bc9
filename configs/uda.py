"""Every method of adaptation on cached features, CLIP frozen, beside the report's rows.

clipjax run uda source=render target=stencil
clipjax suite --study=uda     all pairs of domains

Closed forms, anchored training and the classics have configs of their own, which explain them.
"""

from clipjax.configs import anchored, classics, closed_form, common, dann


def get_config(arg: str | None = None):
    """`--config=configs/uda.py[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "uda"
    report = dann.get_config().methods
    methods = {
        **closed_form.methods(),
        **anchored.methods(),
        **{name: report[name] for name in ("finetune", "source_only", "dann")},
        **classics.methods(),
        "upper_bound": report.upper_bound,
    }
    config.methods, config.stages = methods, tuple(methods)
    # Half the usual epochs, one checkpoint, one validation: 26 methods on 30 pairs are many.
    config.epochs = config.save_every = 20
    if common.apply_arg(config, arg):
        config.epochs = config.save_every = 2
    return config
