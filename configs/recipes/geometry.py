"""Geometry kept: CLIP's text tower fine-tuned, with and without penalties on its embeddings.

clipjax run recipes/geometry
clipjax run recipes/geometry methods.embedding.freeze="('clip/logit_scale',)"

The penalties are those of NVIDIA's TAO toolkit (`clipjax.adapt.preserve`), each alone, and the
matrix of similarities both ways. Image features are cached; the second command lets the image tower
of one method train too, for minutes instead of seconds. What CLIP knows of other classes is tested
on the second set of classes of the embedded pictures, before and after.
"""

from clipjax.configs import common

HELD = {
    "finetune": {},
    "embedding": {"preserve": {"embedding": 1.0}},
    "similarity": {"preserve": {"similarity": 10.0}},
    "across": {"preserve": {"similarity": 10.0, "of": "across"}},
}


def get_config(arg: str | None = None):
    """`recipes/geometry[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment = "geometry"
    epochs = 1 if common.apply_arg(config, arg) else 20
    config.prompts = "name"
    config.forgetting.name = "emoji_regrouped"
    config.stages = tuple(HELD)
    for name, penalties in HELD.items():
        config.methods[name] = {
            "loss": "finetune",
            "heads": {"text": True},
            "freeze": ("clip/vision/.*", "clip/logit_scale"),
            "epochs": epochs,
            "optim": {"lr": 3e-4, "weight_decay": 0.1, "warmup": 0.1},
            **penalties,
        }
    return config
