"""WiSE-FT: the image tower and a linear head trained from zero-shot, then drawn back to it.

clipjax run recipes/wise_ft
clipjax run recipes/wise_ft stages="('wise_head',)"

Wortsman et al. 2022 (arXiv 2109.01903): weights (1 - alpha) zero-shot + alpha trained, of tower and
head. Every alpha is a result; which one is best on the source's validation images is said, and the
page draws the accuracy on other domains over that on the source. Each alpha encodes the images of
every domain anew. As in the paper's code, everything decays, and crops keep 90 to 100 % of the
area; batches there are of 512 images, the warm-up of 500 steps is a tenth of the run here.

The second command trains the head alone on images as they are, in seconds; render to the others on
the embedded data, test accuracy of 3 seeds (spread at most 0.2): zero-shot 46.2 on render and 39.8
on the others, alpha 0.5 47.9 and 40.6, as trained 48.5 and 41.0, which validation picks. So WiSE-FT
does not help that head, which has not forgotten anything.

Both towers, by `clipjax suite --study=robust` (20 steps, 30 runs on 3 to 100 % of render, ± over
runs): alpha 0.5 is +1.1 ± 1.2 points OOD and +0.6 ± 1.6 ID from as trained, most with few data, and
+0.7 ± 1.2 and +1.9 ± 2.9 from zero-shot (docs/robust-fine-tuning.md).
"""

from clipjax.configs import common

OPTIM = {"weight_decay": 0.1, "warmup": 0.1, "warmup_kind": "linear_next"}
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def get_config(arg: str | None = None):
    """`recipes/wise_ft[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "wise_ft"
    epochs = 1 if common.apply_arg(config, arg) else 10
    config.stages = ("wise_ft",)
    usual = {"loss": "finetune", "heads": {}, "epochs": epochs, "wise": SHARES}
    config.methods.wise_ft = usual | {
        "freeze": (),
        "augment": {"smallest": 0.9, "flip": False},
        "optim": OPTIM | {"lr": 3e-5, "decay": "all"},
    }
    config.methods.wise_head = usual | {"optim": OPTIM | {"lr": 1e-3}}
    return config
