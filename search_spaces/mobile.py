"""The mobile block space: stages of inverted residuals, of which any property may be a decision.

A frame is a stem, stages of layers and a head, as the papers' tables list them. Each property of a layer (kernel,
expand ratio, squeeze-and-excitation, ...), and the channels and the number of layers of a stage, is fixed or a
decision, taken for each layer (FBNet, ProxylessNAS, once-for-all) or for each stage (MnasNet). Strides belong to the
frame: one program for every row has one shape at each place.
"""

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from search_spaces.mobile_blocks import Style, Width, check, layer
from search_spaces.ops import classifier

MOST_LAYERS = 64  # of a stage
SMALLEST = 3  # pixels that are left before the head: the first strides are dropped for that
DEFAULTS: Mapping[str, Any] = {
    **{"block": "mbconv", "kernel": 3, "expand": 6, "groups": 1, "se": 0},
    **{"activation": "relu", "skip": "identity"},
}


@dataclass(frozen=True)
class Stage:
    """Layers of equal output.

    Attributes:
        channels: of their outputs.
        layers: how many.
        stride: of the first.
        fixed: properties of its layers, where they differ from `DEFAULTS`.
        options: properties that are decisions, and what to choose from; ``channels`` and ``layers`` may be among them.
    """

    channels: int
    layers: int = 1
    stride: int = 1
    fixed: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """A whole network at the width and the image size of its paper.

    Attributes:
        stem: channels of the first 3x3 convolution; the macro's width divided by it multiplies all channels.
        stages: in order.
        head: channels of the last 1x1 convolution; 0 for none (ResNet).
        features: of a dense layer between pooling and classifier; 0 for none (MobileNetV3 has one).
        activation: of stem and head.
        stem_stride: 1 or 2.
        style: of the layers.
        features_bias: whether the dense layer has biases; once-for-all's has none.
        resolutions: sides of the image to choose from, as the decision ``resolution``; none: the macro's.
    """

    stem: int
    stages: tuple[Stage, ...]
    head: int
    features: int = 0
    activation: str = "relu"
    stem_stride: int = 2
    style: Style = field(default_factory=Style)
    features_bias: bool = True
    resolutions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Planned:
    """One layer of the network: its settings, and when it is there."""

    settings: Mapping[str, Any]
    channels: int | Decision
    stage: int
    first: bool
    depth: Decision | None  # of its stage, where the layer is not always there
    place: int  # in its stage, from 0


def mobile_space(
    name: str,
    frame: Frame,
    *,
    macro: Macro,
    per: str = "layer",
    most_layers: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> SearchSpace:
    """The space of a frame's decisions.

    A decision is called ``layer_3_kernel`` or, for a whole stage, ``stage_1_kernel``. The depth of the macro must be 1;
    its width is the stem's and scales all channels. For small images the first strides are 1, so that `SMALLEST` pixels
    are left: at 32x32 this is what HW-NAS-Bench made of FBNet.

    Args:
        name: of the space.
        frame: with the options.
        macro: searched at by default.
        per: ``layer`` or ``stage``: what a property is chosen for. Channels and numbers of layers are of stages.
        most_layers: of a stage; stages with more are cut, for a smaller program.
        arguments: of the factory.

    Raises:
        BadInput: a property that cannot be, options that repeat.
    """
    if per not in ("layer", "stage"):
        raise BadInput(f"{name}: per is {per!r}; it must be 'layer' or 'stage'")
    if most_layers is not None:
        if isinstance(most_layers, bool) or not isinstance(most_layers, int) or most_layers < 1:
            raise BadInput(f"{name}: most_layers is {most_layers!r}; it must be a whole number of at least 1")
        frame = replace(frame, stages=tuple(_cut(stage, most_layers) for stage in frame.stages))
    decisions: dict[str, Decision] = {}
    if frame.resolutions:
        decisions["resolution"] = Decision("resolution", frame.resolutions)
    plan = _plan(name, frame, per, decisions)
    order = {decision: i for i, decision in enumerate(decisions)}
    return SearchSpace(
        name=name,
        decisions=tuple(decisions.values()),
        network=functools.partial(network, frame=frame, plan=plan),
        macro=macro,
        allowed_of=_allowed(decisions, plan, order) if any(p.depth for p in plan) and per == "layer" else None,
        factors=_factors(plan, order),
        arguments={"most_layers": most_layers, **(arguments or {})},
    )


def _cut(stage: Stage, most: int) -> Stage:
    options = dict(stage.options)
    if "layers" in options:
        options["layers"] = tuple(dict.fromkeys(min(n, most) for n in options["layers"]))
    return replace(stage, layers=min(stage.layers, most), options=options)


def _plan(name, frame, per, decisions) -> tuple[Planned, ...]:
    """Every layer that may be there; puts the decisions into `decisions`, in order."""

    def decide(place, what, options):
        key = f"{place}_{what}"
        if len(set(options)) < len(options) or not options:
            raise BadInput(f"{name}: the options of {key} are {list(options)}; they must be different, at least one")
        return decisions.setdefault(key, Decision(key, options))

    plan: list[Planned] = []
    for s, stage in enumerate(frame.stages):
        place, given = f"stage_{s}", dict(stage.options)
        whole = {what: decide(place, what, given.pop(what)) for what in ("channels", "layers") if what in given}
        channels, depth = whole.get("channels", stage.channels), whole.get("layers")
        for what, count in (("channels", channels), ("layers", depth or stage.layers)):
            values = count.options if isinstance(count, Decision) else [count]
            if any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
                raise BadInput(f"{name}: {what} of stage {s} are {values!r}; they must be whole numbers of at least 1")
        if max(depth.options if depth else [stage.layers]) > MOST_LAYERS:
            raise BadInput(f"{name}: stage {s} has more than {MOST_LAYERS} layers; give it fewer")
        for k in range(max(depth.options) if depth else stage.layers):
            at = f"layer_{len(plan)}" if per == "layer" else place
            settings = {**DEFAULTS, **stage.fixed}
            for what, options in given.items():
                settings[what] = decide(at, what, tuple(options))
            for what, value in settings.items():
                check(f"{name}, stage {s}", what, value.options if isinstance(value, Decision) else [value])
            always = depth is None or k < min(depth.options)
            plan.append(Planned(settings, channels, s, k == 0, None if always else depth, k))
    return tuple(plan)


def network(net, macro: Macro, *, frame: Frame, plan: tuple[Planned, ...]):
    """The whole network."""
    if macro.depth != 1:
        raise BadInput(f"macro: depth is {macro.depth}; mobile spaces have their own numbers of layers, it must be 1")
    multiplier = macro.width / frame.stem
    # of the smallest image, so that every row has the same strides
    stem_stride, *strides = strides_for(frame, (min(frame.resolutions),) * 2 if frame.resolutions else macro.input)
    before = Width(frame.stem, multiplier)
    x = net.input
    if frame.resolutions:
        x = net.choice("resolution", {r: lambda r=r: net.resize(net.input, r) for r in frame.resolutions})
    with net.block("stem"):
        x = net.batch_norm(net.conv(x, before(net), 3, stride=stem_stride))
        x = net.activation(x, frame.activation)
    for i, p in enumerate(plan):
        after = Width(p.channels, multiplier)
        stride = strides[p.stage] if p.first else 1
        run = functools.partial(layer, net, x, p.settings, (before, after), stride, frame.style, f"layers.{i}")
        x = net.when(_there(net, p.depth, p.place), run, x, name=f"layer_{i}") if p.depth else run()
        before = after
    return head(net, x, frame, multiplier, macro.classes)


def _there(net, depth: Decision, place: int) -> Any:
    """Whether the row has this layer: a bool array without dimensions."""
    return functools.reduce(operator.or_, [net.chosen(depth.name, n) for n in depth.options if n > place])


def head(net, x: Any, frame: Frame, multiplier: float, classes: int) -> Any:
    """1x1 convolution, pooling, a dense layer where the frame has them, classifier; in the blocks of latency tables."""
    if frame.head:
        with net.block("final_conv"):
            x = net.batch_norm(net.conv(x, Width(frame.head, multiplier)(net), 1))
            x = net.activation(x, frame.activation)
    if not frame.features:
        return classifier(net, x, classes)
    with net.block("pool"):
        x = net.global_avg_pool(x)
    with net.block("feature_mix"):
        x = net.linear(x, Width(frame.features, multiplier)(net), bias=frame.features_bias)
        x = net.activation(x, frame.activation)
    with net.block("logits"):
        return net.linear(x, classes)


def strides_for(frame: Frame, size: Sequence[int]) -> list[int]:
    """Strides of the stem and of each stage for images of (height, width, ...).

    The first ones become 1 until `SMALLEST` pixels are left at the end, so that small images keep their detail.
    """
    strides = [frame.stem_stride, *(stage.stride for stage in frame.stages)]
    for i in range(len(strides)):
        if -(-min(size[:2]) // functools.reduce(operator.mul, strides)) >= SMALLEST:
            break
        strides[i] = 1
    return strides


# ---- rows --------------------------------------------------------------------------------------------------------
def _allowed(decisions, plan, order):
    """Layers that are not there choose nothing: option 0 alone."""
    options = list(decisions.values())
    waits = {
        order[value.name]: (order[p.depth.name], [n > p.place for n in p.depth.options])
        for p in plan
        if p.depth
        for value in p.settings.values()
        if isinstance(value, Decision)
    }

    def allowed(row, i):
        free = np.ones(len(options[i].options), bool)
        if i not in waits:
            return free
        depth, there = waits[i]
        return free & (jnp.asarray(there)[row[depth]] | (np.arange(free.shape[0]) == 0))

    return allowed


def _factors(plan, order) -> tuple[tuple[int, ...], ...] | None:
    """For each layer its own decisions, whether it is there, the channels on both sides, and the resolution."""
    everywhere = [order["resolution"]] if "resolution" in order else []
    groups: dict[tuple[int, ...], None] = {tuple(everywhere): None} if everywhere else {}
    before: int | Decision = 0
    for p in plan:
        read = [*p.settings.values(), p.channels, p.depth, before]
        group = tuple(sorted({*everywhere, *(order[d.name] for d in read if isinstance(d, Decision))}))
        groups |= {group: None} if group else {}
        before = p.channels
    found = [g for g in groups if not any(set(g) < set(other) for other in groups)]
    last = order[before.name] if isinstance(before, Decision) else None
    if last is not None and not any(last in g for g in found):
        found.append((*everywhere, last))
    return tuple(found)
