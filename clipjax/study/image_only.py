"""Studies of a model without a text tower: what needs class texts is refused by name."""

import jax
import jax.numpy as jnp

from clipjax.adapt.method import PROMPTS
from clipjax.errors import ConfigError
from clipjax.study.defaults import OWN_PROMPTS
from clipjax.study.defaults import PROMPTS as DEMO_PROMPTS
from clipjax.study.methods import Method
from clipjax.study.prepared import Plan, made_of, own_shapes

_READS = ("zero_shot", "teacher")


def check_image_only(plan: Plan) -> str:
    """Return the note that zero-shot is left out of a study whose model has images alone.

    ConfigError for methods and fields that need class texts, and for a study without a method.
    """
    encoder, has = plan.study.encoder, f"{plan.study.encoder.model} has no text tower"
    if encoder.class_names or encoder.prompts not in (OWN_PROMPTS, DEMO_PROMPTS):
        field = "class_names" if encoder.class_names else "prompts"
        raise ConfigError(f"{field} has no effect: {has}; leave it out.")
    if plan.study.forgetting.given:
        raise ConfigError(f"forgetting compares zero-shot before and after: {has}; leave it out.")
    if not plan.methods:
        raise ConfigError(f"{has}, so there is no zero-shot to measure; name a method in stages.")
    for method in plan.methods.values():
        if told := _needs_texts(plan, method):
            remedy = "take a CLIP as the model, or leave it out"
            raise ConfigError(f"methods.{method.config.stage}: {told}, and {has}; {remedy}.")
    return f"{has}: zero-shot, and what compares with it, is left out"


def _needs_texts(plan: Plan, method: Method) -> str:
    """Return what of a method reads class texts, "" if nothing does."""
    loss, heads = f"loss {method.config.loss!r}", method.heads
    if heads is not None and heads.text:
        return "heads = {'text': True} classify by texts"
    if heads is not None and heads.from_texts:
        return "its head starts at zero-shot (give heads.start = 'random' or 'logistic')"
    if not method.trains and method.kind.texts:
        return f"{loss} reads class texts or CLIP's scale"
    taught = {"zero_shot"} if plan.study.encoder.teacher else set()
    reads = [r for r in method.kind.reads if r in {*_READS} - taught or r.startswith(f"{PROMPTS}/")]
    if reads:
        return f"{loss} reads {', '.join(reads)}"
    if not method.trains:
        return ""
    if "text" in method.kind.towers:
        return f"{loss} runs the text tower"
    try:
        own = own_shapes(plan, method)
        if method.kind.episode is not None:
            _trace_episode(plan, method, own)
    except ConfigError:  # of `NoTexts`
        return f"{loss} reads class texts or CLIP's scale"
    return ""


def _trace_episode(plan: Plan, method: Method, own) -> None:
    """Trace a method's answer to a task of two classes of one example."""
    made = made_of(plan, method, method.phases[-1])
    width = plan.clip_config.projection_dim
    support = jax.ShapeDtypeStruct((2, 1, width), jnp.float32)
    query = jax.ShapeDtypeStruct((1, width), jnp.float32)
    jax.eval_shape(made.episode, own, support, query)
