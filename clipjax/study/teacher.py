"""A larger CLIP as a teacher: its zero-shot answers stand in place of the model's own."""

import dataclasses

from clipjax.errors import ConfigError
from clipjax.study.model_opened import open_model
from clipjax.study.prepared import Plan
from clipjax.study.prompt_sets import kept_tokens, read_prompts


def with_teacher(plan: Plan) -> Plan:
    """Return a plan with the teacher that its config names, opened, with the same prompts.

    The classes are the plan's, so teacher and model answer the same question.

    ConfigError: no method learns from zero-shot answers, or the teacher has no text tower.
    """
    encoder = plan.study.encoder
    if not encoder.teacher:
        return plan
    told = f"teacher={encoder.teacher}"
    if not any("zero_shot" in method.kind.reads for method in plan.methods.values()):
        remedy = "take distill, shot, cmkd or fixmatch, or leave it out"
        raise ConfigError(f"{told} has no effect: no method learns from zero-shot; {remedy}.")
    own = dataclasses.replace(encoder, model=encoder.teacher, teacher="", revision="", image_size=0)
    study = dataclasses.replace(plan.study, encoder=own)
    model = open_model(study)
    if not model["module"].config.text:
        raise ConfigError(f"{told} has no text tower, and so no answers; give a CLIP.")
    read = lambda: read_prompts(own, plan.class_names, model["model"])
    names = plan.class_names, own.prompts, model["identity"]
    tokens = kept_tokens(study.features, *names, read)
    other = {"methods": {}, "notes": (), "others": {}, "bare": None, "words": {}}
    return plan._replace(teacher=plan._replace(study=study, tokens=tokens, **model, **other))
