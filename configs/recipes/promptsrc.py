"""PromptSRC: learned tokens in both towers, held near the encoder as it came, and averaged.

clipjax run recipes/promptsrc

Khattak et al. 2023 (arXiv 2307.06948) with the rate, the batches of 4 and the 20 epochs of their
code, and the depth of 3 and the average around epoch 6 of its cross-dataset setting; base-to-new is
depth 9 and an average around epoch 15, of 12 blocks. The result, as in the paper, is the average;
that of the last epoch is a row beside it. Every step encodes images, twice, cropped and mirrored as
there.

On the embedded data, as `few_shot` has it (20 steps of 16 whole images, docs/few-shot.md), 1, 4
and 16 images a class, three subsets, accuracy in % on render: 39.6 ± 1.4, 41.0 ± 2.2, 39.4 ± 0.6;
trained on base classes 53.2 ± 1.7 on these and 31.3 ± 2.5 on new ones. Zero-shot has 46.2, and 59.6
and 40.4.
"""

from clipjax.configs.recipes.coop import CROPS, sgd

from clipjax.configs import common


def entry(depth: int = 3, epochs: int = 20) -> dict:
    """Return PromptSRC's entry: of depth 9 as in base-to-new, of others as in cross-dataset."""
    mean, std = (15.0, 1.0) if depth == 9 else (6.0, 10.0)
    average = {"kind": "gauss", "every": "epoch", "mean": mean, "std": std}
    made = {"loss": "promptsrc", "depth": depth, "epochs": epochs, "batch_size": 4}
    return made | {"optim": sgd(2.5e-3, epochs), "average": average, "result": "average"}


def get_config(arg: str | None = None):
    """`recipes/promptsrc[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment, config.stages = "promptsrc", ("promptsrc",)
    smoke = common.apply_arg(config, arg)
    config.methods.promptsrc = entry(epochs=2 if smoke else 20) | {"augment": CROPS}
    if smoke:
        config.methods.promptsrc.batch_size = 64
    return config
