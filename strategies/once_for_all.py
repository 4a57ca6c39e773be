"""Once-for-all: one supernet whose every sub-network is trained, by shrinking its largest one.

Cai, Gan, Wang, Zhang and Han, "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020.
The sandwich rule is from Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019,
and single-stage training with it from Yu et al., "BigNAS", ECCV 2020.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nas.channels import channel_groups, orders, reorder
from nas.elastic import elastic_supernet, extreme, ranked, share
from nas.errors import BadInput, suggest
from nas.network import apply_layers
from nas.one_shot import Batch, OneShot
from nas.recipe import PRECISIONS, Recipe, learning_rate_at, optimizer_of
from nas.space import Macro, SearchSpace
from nas.train import CLASSIFICATION, Task, descend

RULES = ("single_stage", "progressive", "sandwich")
SAMPLED = {"single_stage": 2}  # networks a step; 4 with the other rules


class Shrinking(NamedTuple):
    """How one property shrinks: shares of `sampled` and of `shrinking_rate`."""

    networks: float
    rate: float


# In the paper's order. The authors' code (train_ofa_net.py) samples 1, 2, 4 networks and starts at rates of .96, .24,
# .24 where the largest network had 2.6; it adds up the gradients of networks and of two losses, which are averaged
# here: 1.92, .96 and 1.92 in all. Widths, which that run does not shrink, go as ratios do.
SHRINKING = {
    "kernel": Shrinking(0.25, 1.0),
    "depth": Shrinking(0.5, 0.5),
    "expand": Shrinking(1.0, 1.0),
    "width": Shrinking(1.0, 1.0),
}
# epochs with the last option of a property for each epoch with one before it, 125 and 25 in the authors' code, where
# the rates are as .24 and .08
LAST_OPTION, EARLIER_RATE = 5.0, 1 / 3


class State(NamedTuple):
    """All of the training."""

    weights: Any
    stats: Any
    optimizer: Any
    teacher: tuple[Any, Any]  # weights and statistics of the largest network's own layers
    allowed: jax.Array  # bool[L, K], options that are trained
    phase: jax.Array  # int32, 0 while the largest network is trained


class Phase(NamedTuple):
    """Some epochs with some options."""

    name: str
    end: int  # after this epoch
    allowed: np.ndarray  # bool[L, K]
    networks: int  # sampled in each step
    rate: float  # of the recipe's
    sort: int = 0  # channels are sorted before it, but for so many widths in use; 0: they are not


def once_for_all(
    space: SearchSpace,
    *,
    macro: Macro,
    recipe: Recipe,
    steps: int,
    task: Task = CLASSIFICATION,
    rule: str = "single_stage",
    sampled: int | None = None,
    teacher: float = 0.3,
    shrinking_rate: float = 0.74,
    distillation: float = 1.0,
    transforms: bool = True,
) -> OneShot:
    """Trains the weights that all networks of an elastic space share; a strategy then searches in them.

    ``single_stage``: random networks on labels from the first step on. ``progressive``, the paper's: first the largest
    network alone; then smaller kernels, depths, expand ratios (channels sorted by importance) and widths join in, phase
    by phase, and learn from the largest as it was. ``sandwich``: each step trains the largest on labels, and the
    smallest and random ones on what the largest says.

    Lengths, rates and networks of the phases are in the proportions of the authors' code. Gradients of a step's
    networks are averaged, and both losses too, where it adds them up: the learning rate then means the same in every
    phase, and the defaults here make up for it.

    The paper's training takes hundreds of epochs, and its teacher must be good before it teaches. In shorter ones a
    single stage is better, so it is the default: on 5,000 CIFAR-10 images, mean accuracy of 12 sub-networks, .557
    against .491 after 40 epochs (``sandwich``, at twice the compute, .483) and .637 against .615 after 160.

    Args:
        space: with elastic decisions, such as `ofa_mbv3`.
        macro: the frame.
        recipe: optimiser, schedule and length. The schedule runs anew in each phase, as in once-for-all's code.
        steps: of the whole training.
        task: its loss; distillation is the cross-entropy to what the teacher says.
        rule: one of ``single_stage``, ``progressive`` and ``sandwich``.
        sampled: networks a step, each of which costs the compute of one. Default: 2 in a single stage; 4 in the others,
            as in the sandwich of BigNAS. While only kernels shrink it is a quarter of them, and then half, which is 1,
            2 and 4 as in the authors' code.
        teacher: share of the epochs that train the largest network; 180 of 605 in the paper's ImageNet run.
        shrinking_rate: of the learning rate, for what follows; 2 x 0.96 after 2.6 in the authors' code, and half of it
            while depths shrink.
        distillation: weight of the teacher's loss beside the labels' 1, as in the paper.
        transforms: learned maps from larger to smaller kernels.

    Raises:
        BadInput: an unknown rule, a number out of range, or a space without elastic decisions.
    """
    if sampled is None:
        sampled = SAMPLED.get(rule, 4)
    _check(rule, sampled, teacher, shrinking_rate, distillation)
    shared = share(space, macro)
    if not SHRINKING.keys() & set(shared.kinds.values()):
        raise BadInput(f"once_for_all: no decision of '{space.name}' is a kernel, depth, ratio or width to share")
    network = elastic_supernet(space, macro, transforms=transforms)
    ends = [extreme(space, shared.kinds, largest) for largest in (True, False)]
    layers = space.layers(ends[0], macro)
    optimizer = optimizer_of(recipe)
    compute = PRECISIONS[recipe.precision].compute
    cast = lambda tree: jax.tree.map(lambda a: a.astype(compute), tree)  # noqa: E731
    progressive = rule == "progressive"
    if progressive:
        phases = _phases(space, shared.kinds, recipe.epochs, teacher, sampled, shrinking_rate)
    else:
        phases = [Phase("all networks", recipe.epochs, _all_options(space), sampled, 1.0)]
    groups = channel_groups(space, macro)

    def init(key):
        weights, stats = network.init(key)
        own = network.extract(weights, stats, ends[0]) if progressive else ({}, {})
        allowed = jnp.asarray(phases[0].allowed)
        return State(weights, stats, optimizer.init(weights), own, allowed, jnp.int32(0))

    ends_at = np.asarray([phase.end for phase in phases], np.float32) / recipe.epochs
    spans = jnp.asarray(np.stack([np.concatenate([[0], ends_at[:-1]]), ends_at]), jnp.float32)
    rates = jnp.asarray([phase.rate for phase in phases], jnp.float32)
    networks = jnp.asarray([phase.networks for phase in phases], jnp.int32)

    def rate(progress, phase):
        start, end = spans[:, phase]
        length = jnp.maximum(end - start, 1 / steps) * steps
        return rates[phase] * learning_rate_at(recipe, (progress - start) * steps, length)

    def teach(teacher, x):
        # with statistics of the batch, as in once-for-all's code
        out, _ = apply_layers(layers, cast(teacher[0]), teacher[1], cast(x), train=True)
        return jax.nn.softmax(out.astype(jnp.float32))

    def step(state: State, train: Batch, valid: Batch, key, progress):
        taught = progressive & (state.phase > 0)
        share_of_teacher = distillation / (1 + distillation)

        def loss(weights, stats, row, says, trust):
            out, stats, _ = network.apply(cast(weights), stats, cast(train.x), row, train=True)
            out = out.astype(jnp.float32)
            labels = task.loss(out, train.labels, recipe).mean()
            teacher = optax.softmax_cross_entropy(out, says).mean()
            return (1 - trust) * labels + trust * teacher, (labels, out, stats)

        def one(i, carry):
            total, stats, says, value = carry
            row = _draw(space, state.allowed, jax.random.fold_in(key, i))
            trust = jnp.where(taught, share_of_teacher, 0.0)
            if rule == "sandwich":
                row = jnp.where(i == 0, ends[0], jnp.where(i == 1, ends[1], row))
                trust = jnp.where(i == 0, 0.0, 1.0)
            gradient, (labels, out, stats) = jax.grad(loss, has_aux=True)(state.weights, stats, row, says, trust)
            if rule == "sandwich":
                says = jnp.where(i == 0, jax.nn.softmax(out), says)
            return jax.tree.map(jnp.add, total, gradient), stats, says, value + labels

        says = jnp.zeros((len(train.x), macro.classes))
        if progressive:
            says = jax.lax.cond(taught, lambda: teach(state.teacher, train.x), lambda: says)
        count = networks[state.phase]
        start = jax.tree.map(jnp.zeros_like, state.weights), state.stats, says, jnp.float32(0)
        total, stats, _, value = jax.lax.fori_loop(0, count, one, start)
        mean = jax.tree.map(lambda g: g / count, total)
        length = rate(progress, state.phase)
        weights, moments = descend(optimizer, state.weights, state.optimizer, mean, length)
        state = state._replace(weights=weights, stats=stats, optimizer=moments)
        return state, {"loss": value / count, "learning_rate": length}

    def after_epoch(state: State, epoch, validation):
        events = []
        while (now := int(state.phase)) + 1 < len(phases) and phases[now].end <= epoch:
            following = phases[now + 1]
            why = f"{following.name}, after {epoch} of {recipe.epochs} epochs"
            if now == 0:
                own = network.extract(state.weights, state.stats, ends[0])
                state = state._replace(teacher=jax.tree.map(jnp.array, own))
                why += "; the largest network is the teacher from here on"
            if following.sort:
                found = orders(groups, state.weights, following.sort)
                moved = reorder(groups, found, (state.weights, state.stats, state.optimizer))
                state = state._replace(weights=moved[0], stats=moved[1], optimizer=moved[2])
                why += "; channels sorted by importance"
            state = state._replace(allowed=jnp.asarray(following.allowed), phase=jnp.int32(now + 1))
            events.append({"event": "phase", "phase": following.name, "why": why})
        return state, events, False

    arguments = {"rule": rule, "sampled": sampled, "teacher": teacher, "shrinking_rate": shrinking_rate}
    arguments |= {"distillation": distillation, "transforms": transforms}
    return OneShot(
        init, step, after_epoch, None, None, lambda s: (s.weights, s.stats), network, "once_for_all", arguments
    )


def _draw(space: SearchSpace, allowed: jax.Array, key: jax.Array) -> jax.Array:
    """int32[L]: each decision uniform over its options that are trained by now and fit the earlier ones."""
    uniform = jax.random.uniform(key, (space.length,))
    row = jnp.zeros(space.length, jnp.int32)
    for i in range(space.length):
        fits = space.allowed(row, i)
        both = fits & allowed[i]
        mask = jnp.where(both.any(), both, fits)  # a layer that is not there has one option, trained or not
        row = row.at[i].set(jnp.argmax(jnp.cumsum(mask) > uniform[i] * mask.sum()).astype(jnp.int32))
    return row


def _phases(
    space: SearchSpace,
    kinds: Mapping[str, str],
    epochs: int,
    teacher: float,
    sampled: int,
    shrinking_rate: float,
) -> list[Phase]:
    """The largest network, then kernels all at once, then depths, ratios and widths, the next smaller one at a time."""
    elastic = {i: (kinds.get(d.name), d) for i, d in enumerate(space.decisions) if kinds.get(d.name) in SHRINKING}

    def mask(counts):
        allowed = _all_options(space)
        for i, (kind, decision) in elastic.items():
            allowed[i] = False
            allowed[i, ranked(decision)[-counts.get(kind, 1) :]] = True
        return allowed

    phases = [Phase("the largest network", max(1, round(teacher * epochs)), mask({}), 1, 1.0)]
    lengths: list[float] = []
    counts: dict[str, int] = {}
    for kind, (networks, rate) in SHRINKING.items():
        most = max((len(d.options) for k, d in elastic.values() if k == kind), default=1)
        for n in range(2 if kind != "kernel" else max(2, most), most + 1):
            counts = {**counts, kind: n}
            last = n == most
            name = f"{kind}: all options" if last else f"{kind}: the {n} largest options"
            own = shrinking_rate * rate * (1.0 if last else EARLIER_RATE)
            lengths.append(LAST_OPTION if last else 1.0)
            each = max(1, round(networks * sampled))
            phases.append(Phase(name, 0, mask(counts), each, own, n - 1 if kind == "expand" else 0))
    ends = epochs * (teacher + (1 - teacher) * np.cumsum(lengths) / sum(lengths))
    return phases[:1] + [p._replace(end=round(end)) for p, end in zip(phases[1:], ends, strict=True)]


def _all_options(space: SearchSpace) -> np.ndarray:
    return np.arange(max(space.cardinalities)) < np.asarray(space.cardinalities)[:, None]


def _check(rule, sampled, teacher, shrinking_rate, distillation):
    if rule not in RULES:
        raise BadInput(f"once_for_all: no rule '{rule}'; {suggest(str(rule), RULES)}")
    least = 2 if rule == "sandwich" else 1
    if isinstance(sampled, bool) or not isinstance(sampled, int) or sampled < least:
        raise BadInput(f"once_for_all: sampled is {sampled!r}; it must be a whole number of at least {least}")
    for name, value, most in (
        ("teacher", teacher, 1),
        ("shrinking_rate", shrinking_rate, 10),
        ("distillation", distillation, 1000),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < most:
            raise BadInput(f"once_for_all: {name} is {value!r}; it must be from 0 to below {most}")
