"""Methods that train as one program, without their images: pure functions, and what XLA made of it.

Nothing here depends on a run's data but the number of its steps. So runs that differ in their
images alone, as all pairs of domains of a comparison do, share `Programs`: tracing and compiling
two dozen methods takes longer than training them on cached features.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt import average as averages
from clipjax.adapt.method import Backbone, Classes, Words
from clipjax.adapt.method import Method as Functions
from clipjax.adapt.step import TrainState, init_state, make_step, merge
from clipjax.data.images.augment import random_resized_crop
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.images.randaugment import randaugment
from clipjax.model.backbone import image_program, make_backbone
from clipjax.model.clip import CLIP
from clipjax.model.image_model import ImageModel, NoTexts
from clipjax.study.evaluator import answerer, validator
from clipjax.study.methods import LOSS_FACTORS, Method
from clipjax.study.optimizers import OPTIM_FACTORS, build_optimizer, learning_rate
from clipjax.study.text_cache import digest_of
from clipjax.study.training import Augment, Average, MethodConfig
from clipjax.train.arrays import Epochs, epochs_program
from clipjax.train.groups import frozen_tree, is_frozen, layer_mults, matches, name_tree
from clipjax.train.phases import Span, next_state, spans

PyTree = Any


def select_fn(functions: Sequence[Callable], row: jax.Array | int) -> Callable:
    """Return the `row`-th of some functions of a number, where `row` may be traced."""
    if len(functions) == 1:
        return functions[0]
    return lambda x: jnp.stack([jnp.asarray(f(x), jnp.float32) for f in functions])[row]


def widened(data: PyTree) -> PyTree:
    """Return arrays with floats of any size as float32."""
    wide = lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
    return jax.tree.map(wide, data)


def average_rule(
    average: Average | None, span: Span, per_epoch: int, save_every: int
) -> averages.Average | None:
    """Return the running mean that a phase asks for, if any."""
    if average is None:
        return None
    every = per_epoch if average.every == "epoch" else 1
    if average.kind == "beta":
        return averages.beta(average.b, span.steps, span.start)
    if average.kind == "swad":
        return averages.segments(save_every * per_epoch)
    if average.kind == "ema":
        return averages.ema(average.decay, every, span.start, average.debias)
    if average.kind == "gauss":
        return averages.gauss(average.mean, average.std, per_epoch, span.start)
    before = math.floor(average.start * span.steps + 1e-6)  # 0.57 * 100 is 56.99999999999999
    if average.last:
        before = span.steps - average.last * per_epoch
    return averages.uniform(span.start + before, every)


def augmented(augment: Augment, pixels: jax.Array, rng: jax.Array) -> jax.Array:
    """Return pixels [B, S, S, 3] as a phase's `augment` alters them, float32 in their range."""
    crop = {"smallest": augment.smallest, "flip": augment.flip}
    if not augment.ops and not augment.cutout:
        return random_resized_crop(rng, pixels, **crop)
    one, two = jax.random.split(rng)
    more = {"ops": augment.ops, "magnitude": augment.magnitude, "square": augment.cutout}
    return randaugment(two, random_resized_crop(one, pixels, **crop), **more)


class Ingredients(NamedTuple):
    """All that a `Recipe` is made of."""

    methods: tuple[Method, ...]  # in what they have in common alike: all but rates and lambdas
    starts: tuple[int, ...]  # of each method, the place of what it starts from in `start`'s `given`
    classes: Classes
    module: CLIP | ImageModel
    preprocess: Preprocess
    per_epoch: int  # steps
    accumulate: int  # microbatches
    save_every: int  # epochs from one validation to the next
    words: Mapping[str, Words] = {}  # that prompts start from

    def key(self) -> Hashable:
        """Return what is the same for the same functions: the methods but for their images."""
        about = self.starts, repr(self.module), *self[4:-1]
        words = [(text, *map(digest_of, found)) for text, found in self.words.items()]
        return tuple(map(method_key, self.methods)), texts_key(self.classes), about, *words


def texts_key(classes: Classes) -> tuple:
    """Return what is the same for the same classes."""
    if isinstance(classes.weights, NoTexts):
        return classes.names, repr(classes.weights)
    arrays = [classes.tokens, classes.weights, *([] if classes.bare is None else [classes.bare])]
    return classes.names, float(classes.scale), *map(digest_of, arrays)


def method_key(method: Method) -> Hashable:
    """Return what is the same for methods that are the same functions, whatever their images."""
    config = {
        field.name: getattr(method.config, field.name)
        for field in dataclasses.fields(MethodConfig)
        if field.name not in ("data", "setting")
    }
    return method.make, repr(method.heads), method.shots, repr(config)


class Recipe:
    """Methods that train as one program, as pure functions of arrays.

    A "run" below is a seed of a method; `row` is a method's position, and may be traced.
    """

    def __init__(self, given: Ingredients, look: Callable | None = None):
        """`look` encodes images of the same model, where others share it."""
        self.methods, self.starts, self.classes, self.module, self.preprocess = given[:5]
        self.per_epoch, self.accumulate, self.save_every, self.words = given[5:]
        self.method = self.methods[0]
        phases = self.method.phases
        lengths = [phase.epochs * given.per_epoch for phase in phases]
        optimizers = [phase.optim.name for phase in phases]
        self.spans = spans(lengths, [phase.freeze for phase in phases], optimizers)
        self.total_steps = sum(lengths)
        self.functions = self.method.on(self.backbone(cached=True), self.classes, phases[-1])
        self.validate = validator(self.functions, self.classes)
        self.compiled_start = jax.jit(self.start)
        self._programs: dict[Hashable, Callable] = {}
        self._look = look or image_program(self.module, self.preprocess.normalize)
        self.answer = self.answer_for(self.classes)

    def answer_for(self, classes: Classes) -> Callable:
        """Return `answerer` for these classes, compiled once."""
        return self._program(
            ("answer", *texts_key(classes)), lambda: answerer(self.functions, classes)
        )

    def backbone(self, augment: Augment | None = None, *, cached: bool = False) -> Backbone:
        """Return the encoder over images, perhaps augmented, or over cached embeddings."""

        def look(pixels, rng):
            if augment is not None and rng is not None:
                pixels = augmented(augment, pixels, rng)
            return self.preprocess.normalize(pixels)

        return make_backbone(self.module, look, ("image",) if cached else (), self.words)

    @functools.cached_property
    def embed(self) -> Callable:
        """(params, uint8 pixels [B, S, S, 3]) -> embeddings [B, P], of the method's own encoder."""
        functions = self.method.on(self.backbone(), self.classes, self.method.phases[-1])
        return jax.jit(functions.embed) if functions.embed else self._look

    def start(self, seeds: jax.Array, given: tuple[PyTree, ...]) -> TrainState:
        """Return states of all runs before any phase, stacked, without optimizer state.

        `given` are the training features that methods start from, once each; none where they start
        from nothing.
        """

        def one(data, seed):
            own = self.functions.init(jax.random.key(seed))
            own = self.functions.start(data, self.classes, own) if given else own
            return TrainState(jnp.zeros((), jnp.int32), own, (), seed)

        each = [jax.vmap(one, (None, 0))(widened(data), seeds) for data in given or ({},)]
        runs = [each[place if given else 0] for place in self.starts]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *runs)

    def setup(self, index: int, params: PyTree, row: jax.Array | int = 0):
        """Return the optimizer and frozen mask of a phase, for the `row`-th method."""
        phase, spans = self.method.phases[index], self.spans
        curves = [learning_rate(method.phases[index], spans, index) for method in self.methods]
        get = lambda method, key: getattr(method.phases[index].optim, key)
        factors = self._varied(OPTIM_FACTORS, get, row)
        rate = select_fn(curves, row)
        optimizer = build_optimizer(
            phase, spans, index, rate=rate, depths=self._depths(), **factors
        )
        names = jax.tree.leaves(name_tree(params))
        here = [p for p in phase.freeze if any(matches(p, name) for name in names)]
        return optimizer, frozen_tree(params, here) if here else None

    def _varied(self, keys: Sequence[str], get: Callable, row: jax.Array | int) -> dict:
        """Return the `row`-th method's numbers of the keys in which methods differ."""
        values = {key: [get(method, key) for method in self.methods] for key in keys}
        varied = {key: each for key, each in values.items() if len(set(each)) > 1}
        return {key: jnp.asarray(each, jnp.float32)[row] for key, each in varied.items()}

    def begin(self, index: int, state: TrainState, more: PyTree) -> TrainState:
        """Return a run's state at the start of a phase; `more` are parameters that join it."""
        average = self.average(index)
        params = merge(state.params, more)
        optimizer, frozen = self.setup(index, params)
        if not index:
            return init_state(params, optimizer, seed=state.seed, frozen=frozen, average=average)
        return next_state(state, optimizer, frozen=frozen, more=more, average=average)

    def average(self, index: int) -> averages.Average | None:
        """Return the running mean of a phase, if any."""
        phase, span = self.method.phases[index], self.spans[index]
        return average_rule(phase.average, span, self.per_epoch, self.save_every)

    def step(self, index: int, backbone: Backbone, params: PyTree, row=0, axis=None) -> Callable:
        """Return the train step of a phase, for the `row`-th method; of `pmap` with an axis."""
        optimizer, frozen = self.setup(index, params, row)
        return make_step(
            self.functions_of(index, backbone, row).loss,
            optimizer,
            total_steps=self.total_steps,
            frozen=frozen,
            accumulate=self.accumulate,
            axis_name=axis,
            average=self.average(index),
        )

    def functions_of(self, index: int, backbone: Backbone, row: jax.Array | int = 0) -> Functions:
        """Return the method in a phase, with the numbers of the `row`-th method."""
        get = lambda method, key: method.phases[index].options.get(key, 0.0)
        changes: dict[str, Any] = self._varied(LOSS_FACTORS, get, row)
        on = lambda method: method.on(backbone, self.classes, method.phases[index])
        schedules = [on(method).schedules for method in self.methods]
        if schedules[0]:
            changes["schedules"] = {
                name: select_fn([each[name] for each in schedules], row) for name in schedules[0]
            }
        return self.method.on(backbone, self.classes, self.method.phases[index], **changes)

    def rates(self, index: int, row: int, step: int) -> dict[str, float]:
        """Return learning rates after `step` updates: `lr`, and `lr:pattern` of groups."""
        phase, start = self.methods[row].phases[index], self.spans[index].start
        rate = float(learning_rate(phase, self.spans, index)(max(0, step - start)))
        layers = layer_mults(phase.optim.layer_decay, self._depths())
        trained = [each for each in layers if not is_frozen(each[0], phase.freeze)]
        factors = dict([*trained, *phase.optim.lr_mults])
        more = {f"lr:{pattern}": factor * rate for pattern, factor in factors.items()}
        return {key: float(f"{value:.6g}") for key, value in ({"lr": rate} | more).items()}

    def _depths(self) -> dict[str, int]:
        """Return the number of blocks of each tower that the method runs."""
        sizes = {"vision": self.module.config.vision, "text": self.module.config.text}
        runs = {"image": "vision", "text": "text"}
        names = [runs[tower] for tower in self.method.kind.towers]
        return {name: sizes[name].num_hidden_layers for name in names}

    def begin_one(self, index: int) -> Callable:
        """Return `begin` of a phase, the same at each call: compiled once for all runs."""
        return self._program(("begin one", index), lambda: functools.partial(self.begin, index))

    def step_on_pixels(self, index: int, params: PyTree, axis=None) -> Callable:
        """Return `step` of a phase from pixels, the same at each call; `params` may be shapes."""
        backbone = lambda: self.backbone(self.method.phases[index].augment)
        make = lambda: self.step(index, backbone(), params, axis=axis)
        return self._program(("step", index, axis), make)

    def begun(self, index: int, states: TrainState, more: PyTree) -> TrainState:
        """Return `begin` of stacked states, compiled."""
        make = lambda: jax.jit(jax.vmap(functools.partial(self.begin, index), (0, None)))
        return self._program(("begin", index), make)(states, more)

    def epochs(self, index: int, states: TrainState, plan: Epochs) -> Callable:
        """Return the compiled epochs of a phase on cached features, for `fit_arrays`."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), states.params)
        step = functools.partial(self.step, index, self.backbone(cached=True), shapes)
        make = lambda: epochs_program(step, plan)
        if plan.rows:  # constants of the program
            return make()
        return self._program(("epochs", index, plan.batch_size, plan.sampler, plan.mesh), make)

    def _program(self, key: Hashable, make: Callable[[], Callable]) -> Callable:
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]


class Programs:
    """What runs one after the other have compiled: give them one, and each is compiled once.

    A run takes what another has left if it has the same methods, classes and model and as many
    steps, and its images are as many. Nothing is kept of images or of a model's parameters.
    """

    def __init__(self):
        self._made: dict[Hashable, Any] = {}

    def recipe(self, given: Ingredients) -> Recipe:
        """Return the recipe of some ingredients."""
        module, preprocess = given.module, given.preprocess
        make = lambda: image_program(module, preprocess.normalize)
        look = self.once(("image", repr(module), preprocess), make)
        return self.once(("recipe", given.key()), lambda: Recipe(given, look))

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` gives, made at the first call with this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
