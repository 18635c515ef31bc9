"""What every experiment has in common: defaults, and the `:key=value,flag` argument string.

--config=configs/dann.py                                  the defaults of an experiment
--config=configs/dann.py:source=render,target=stencil     common choices
--config=configs/dann.py:smoke                            seconds instead of a minute
--config=configs/dann.py --config.optim.lr=3e-4           any field
"""

from ml_collections import ConfigDict

_KEYS = ("source", "target", "model", "root")
_FLAGS = ("smoke",)


def common() -> ConfigDict:
    """The fields that all experiments share."""
    config = ConfigDict()
    config.model = "tiny"  # the embedded CLIP; else a Hub id or a directory in Hugging Face layout
    config.revision = ""  # branch, tag or commit of a Hub id; directories have none
    config.seeds = (0, 1, 2)
    # How devices share a batch where the encoder trains (docs/parallel.md).
    config.parallel = "jit"  # or "pmap"
    config.mesh = ConfigDict()
    config.mesh.data = 0  # devices (or groups of fsdp devices) that share a batch; 0: all
    config.mesh.fsdp = 1  # devices that share the parameters and optimizer state of one model
    config.profile = ""  # "10:20" traces these steps into the workdir
    config.data = ConfigDict()
    # "emoji" is embedded. With a root what lies there decides, or "folder", "lists", "domainnet",
    # "parquet"; "tfds:NAME" for TensorFlow Datasets.
    config.data.name = "emoji"
    config.data.root = ""
    config.data.lists = ""  # folder of list files that lie elsewhere than data.root
    config.data.fractions = (0.6, 0.1, 0.3)  # train, val, test where the data has no splits
    config.data.source = "render"  # labelled domain
    config.data.target = "sketch"  # domain of which training sees the images only
    config.data.decoder = "fast"  # the bits of "reference", which is PIL alone
    config.data.workers = 0  # processes that decode; 0: threads of this one
    config.prompts = "drawings"  # a set of clipjax.model.prompts.PROMPTS, or a template with {}
    config.keep = 2  # how many of the newest checkpoints of a phase stay on disk
    config.class_names = ""  # JSON file {"class": "what prompts call it"}
    return config


def study() -> ConfigDict:
    """Zero-shot on every domain; experiments add their trained methods."""
    config = common()
    config.data.domains = ()  # what is evaluated beside source and target; (): every domain
    config.data.classes = "closed"  # or "intersection": the classes that source and target share
    config.data.max_unreadable = 0.01  # share of images that may be left out
    config.data.shots = 0  # labelled images per class to train on; 0: all
    config.data.fraction = 1.0  # of the labelled images of each class to train on
    config.data.subset_seed = 0  # which ones; smaller subsets are parts of larger ones
    config.data.balanced = False  # draw labelled images so that classes are equally likely
    config.data.epoch = "source"  # "source" or "target": one pass; "longest"; or a number of steps
    config.image_size = 0  # 0: the model's own; else position embeddings are interpolated
    config.features = ConfigDict()
    config.features.batch_size = 64  # the last batch of each split is padded to it
    config.features.cache = True
    config.features.dtype = "float32"  # "bfloat16", "float16": half the disk and memory
    config.features.cache_dir = ""  # default: clipjax/features in the user's cache folder
    config.whole_domains = False  # zero-shot over train + val + test together too (Table 1)
    config.stages = ()  # which of the methods below run, in this order, after zero-shot
    # name -> {"loss": file of clipjax/adapt, "heads": {...}, options of the loss}; "epochs",
    # "freeze", "optim", "augment" and "data" (target, shots, ...) where it has its own; "phases":
    # {name: the same keys} with "phase_order" where these change while it trains
    # (configs/tables.py has examples).
    config.methods = ConfigDict()
    # The stages at several settings: a tuple of grids ({"optim.lr": (1e-3, 3e-3), ...},), each
    # meaning all combinations of its values; docs/sweeps.md says what can vary.
    config.sweep = ()
    # Patterns of layer groups: "clip/vision/block_0..5", "clip/text/.*", "clip/logit_scale", ...
    config.freeze = ("clip/.*",)
    config.selection = "last"  # which checkpoint: a rule of clipjax.evaluate.select.RULES
    config.epochs = 40  # few images; the report's 10 epochs are of 120,000
    config.batch_size = 64
    config.accumulate = 1  # microbatches a batch: less memory where the encoder trains
    config.compute_dtype = "float32"  # or "bfloat16": what the towers compute in
    config.remat = "none"  # or "dots", "blocks": computed again in the backward pass; less memory
    config.tensorboard = False  # events in the workdir too; needs the extra of that name
    config.save_every = 10  # epochs; a checkpoint and a validation each
    config.keep_best = 0  # how many of the best by `selection`; 0: the one that it needs
    config.optim = ConfigDict(
        {
            "name": "adamw",
            "lr": 1e-3,
            "schedule": "cosine",  # "constant", "cosine", "step"
            "warmup": 0.0,  # fraction of the run
            "step_every": 1 / 3,  # for "step": fraction of the run
            "gamma": 0.1,  # for "step": factor
            "weight_decay": 1e-2,
            "clip_norm": 1.0,
            "lr_mults": (),  # (("clip/.*", 0.1), ...): factors for layer groups, first match wins
        }
    )
    return config


def mlp_head(label_smoothing: float = 0.1, members: int = 1) -> dict:
    """The report's head of 2 layers on frozen features (Table 3), or an ensemble of them."""
    return {
        "loss": "finetune",
        "label_smoothing": label_smoothing,
        "heads": {"classifier": (256,), "members": members},
    }


def parse_arg(arg: str | None) -> dict:
    """Splits "source=a,smoke" into {"source": "a", "smoke": True}.

    Raises:
      ValueError: a word that is no choice; those there are are listed.
    """
    choices = {}
    for word in filter(None, (arg or "").split(",")):
        key, equals, value = word.partition("=")
        if (equals and key not in _KEYS) or (not equals and key not in _FLAGS):
            known = ", ".join([f"{k}=..." for k in _KEYS] + list(_FLAGS))
            raise ValueError(f"unknown word {word!r} after the config file; known: {known}.")
        choices[key] = value if equals else True
    return choices


def apply_arg(config: ConfigDict, arg: str | None) -> bool:
    """Puts the choices of the argument string into the config; returns whether `smoke` is one."""
    choices = parse_arg(arg)
    for key in ("source", "target", "root"):
        if key in choices:
            config.data[key] = choices[key]
    config.model = choices.get("model", config.model)
    if "smoke" in choices:
        config.seeds = config.seeds[:1]
    return "smoke" in choices
