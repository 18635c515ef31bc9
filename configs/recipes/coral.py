"""Deep CORAL on an adapter's outputs, in both forms, and with a free image tower (1607.01719).

clipjax run recipes/coral
clipjax run recipes/coral stages="('source_only','coral','domainbed')"   with the tower frozen

`coral` is the paper's |C_s - C_t|^2 / (4 d^2); `domainbed` the form of DomainBed and WILDS, without
the 1/4 and with the distance of means. Covariances of features of length 1 are of order 1/d: the
loss of `source_only`'s features is 2e-5, and the weights of papers (1; WILDS: 0.1 on FMoW, 10 on
iWildCam, of raw features) change nothing here, so these are larger.

On the embedded data, test accuracy in %, mean ± standard deviation over 3 seeds, on render (the
source) and stencil: `source_only` 48.7 ± 0.6 and 30.6 ± 2.3, `coral` with weight 10 the same to the
digit, with 1e4 47.1 ± 0.2 and 32.6 ± 1.8, `domainbed` with 1 48.6 ± 1.0 and 32.1 ± 1.2, with 100
46.5 ± 0.4 and 36.9 ± 0.4; zero-shot itself has 46.2 and 35.4. The weights were not tuned.
`coral_free`, everything trained for 2 epochs of 7 steps: 30.3 ± 5.0 and 22.7 ± 5.3, far from the
end of its training; a seed of these takes minutes on two cores.
"""

from clipjax.configs import common


def get_config(arg: str | None = None):
    """`recipes/coral[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "coral"
    config.methods, config.stages = methods(), tuple(methods())
    if common.apply_arg(config, arg):
        config.epochs = 1
    return config


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name."""
    adapter = {"heads": {"adapter": (256,)}}
    return {
        "source_only": adapter | {"loss": "finetune"},
        "coral": adapter | {"loss": "coral", "weight": 1e4},
        "domainbed": adapter | {"loss": "coral", "means": True, "weight": 100.0},
        "coral_free": adapter
        | {
            "loss": "coral",
            "weight": 1e4,
            "freeze": (),
            "epochs": 2,
            "optim": {"lr": 1e-3, "lr_mults": (("clip/.*", 0.03),)},
        },
    }
