"""What of Domino acts: prompts and norms, each with controls that know nothing, or all.

clipjax suite --study=domino     all rows, and the mixing of real and synthetic images
clipjax run domino_grid smoke    a few scenes, one epoch

{none, add, sub} of class tokens x {plain, Domino} norms x W of {CLIP, constant, shuffled, oracle}
on the mask decoder, and the norms on the linear one, in front of which prompts cannot act. W is
read with CLIP's own scale: with the paper's, 1, it is so nearly constant that no control would
differ (docs/segmentation.md). Each row with W has as many parameters as its controls; what it gains
over them, by seed, is what the knowledge of the image is worth.
"""

from ml_collections import ConfigDict

from clipjax.configs import common, domino
from clipjax.study import Segmentation, flat

PROMPTS, CONTROLS = ("none", "add", "sub"), ("none", "constant", "shuffled", "oracle")
CLIPS_SCALE = 0.0


def methods() -> dict[str, dict]:
    """Return name -> fields of every row of the grid."""
    found: dict[str, dict] = {}
    own = {"linear": {}, "mask": {"lr": 1e-3}}
    for decoder, prompts in (("linear", PROMPTS[:1]), ("mask", PROMPTS)):
        for prompt in prompts:
            for norm in ("plain", "domino"):
                words = [decoder, *(w for w in (prompt, norm) if w not in ("none", "plain"))]
                fields = {"decoder": decoder, "prompt": prompt, "norm": norm} | own[decoder]
                if len(words) == 1:  # no W, so no control
                    found[decoder] = fields
                    continue
                for control in CONTROLS:
                    name = "_".join(words if control == "none" else [*words, control])
                    found[name] = fields | {"control": control, "scale": CLIPS_SCALE}
    return found


def get_config(arg: str | None = None) -> ConfigDict:
    """`--config=configs/domino_grid.py[:smoke]`."""
    config = ConfigDict(flat(Segmentation()))
    config.methods = {name: domino.fields() | entry for name, entry in methods().items()}
    config.seeds, config.levels = (0, 1, 2, 3, 4), (6,)  # the last alone
    # Fewer scenes and passes than a run's, as 26 rows of five seeds share 25 minutes; smaller
    # batches, so that there are nearly as many steps.
    config.data.train, config.data.test = 400, 100
    config.batch_size, config.epochs, config.save_every = 16, 12, 12
    config.mixing.shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    if common.apply_arg(config, arg):
        config.data.train, config.data.test, config.epochs = 16, 4, 1
        config.batch_size, config.width = 8, 8
        kept = ("linear", "linear_domino", "linear_domino_constant", "mask", "mask_add_domino")
        config.methods = {name: config.methods[name] for name in kept}
        config.mixing.shares = (0.0, 1.0)
    return config
