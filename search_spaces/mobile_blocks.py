"""The layers of mobile networks: inverted residuals with squeeze-and-excitation, each property a choice or not.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018; Hu et al., "Squeeze-and-Excitation
Networks", CVPR 2018; Howard et al., "Searching for MobileNetV3", ICCV 2019.

A *setting* is a value, or a `Decision` over values; what it sets is then written once for each option.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.errors import BadInput
from nas.layers import ACTIVATIONS, Layer
from nas.space import Decision

# the properties of a layer, and what they may be
FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "block": lambda v: isinstance(v, str) and named_block(v) is not None,
    "kernel": lambda v: v in (1, 3, 5, 7, 9, 11) and isinstance(v, int),
    "expand": lambda v: isinstance(v, int | float) and 0 < v <= 64,
    "groups": lambda v: v in (1, 2, 4, 8) and isinstance(v, int),
    "se": lambda v: isinstance(v, int | float) and 0 <= v <= 1,
    "activation": lambda v: v in ACTIVATIONS,
    "skip": lambda v: v in ("identity", "pool", "none"),
}
NAMED: Mapping[str, Mapping[str, Any]] = {
    "mbconv": {},
    "sep_conv": {"op": "mbconv", "expand": 1},
    "conv": {},
    "bottleneck": {},
    "identity": {},
    "skip": {"op": "identity"},
}
TOKENS = {"k": ("kernel", int), "e": ("expand", float), "g": ("groups", int), "se": ("se", float)}


@dataclass(frozen=True)
class Style:
    """What all layers of a family share.

    Attributes:
        squeeze_of: squeeze-and-excitation's ratio is of the ``expanded`` channels, in eights (MobileNetV3), or of the
            block's ``input`` channels (EfficientNet).
        squeeze_activation: between its two dense layers.
        gate: of the gate.
        always_expand: whether ratio 1 keeps its 1x1 convolution (FBNet), which others leave out.
        shortcut_activation: whether an identity that changes the shape, a 1x1 convolution with batch norm, ends in an
            activation (FBNet).
    """

    squeeze_of: str = "expanded"
    squeeze_activation: str = "relu"
    gate: str = "hard_sigmoid"
    always_expand: bool = False
    shortcut_activation: bool = False


@dataclass(frozen=True)
class Width:
    """Channels as a setting, times the network's width multiplier, in eights."""

    channels: int | Decision
    multiplier: float

    def __call__(self, net, of: Callable[[int], int] = int) -> Any:
        """The channels, or what follows from them."""
        if isinstance(self.channels, Decision):
            return net.width(self.channels.name, lambda c: of(divisible(c * self.multiplier)))
        return of(divisible(self.channels * self.multiplier))


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of `by`, at least one of them and not below nine tenths of `channels` (MobileNet's code)."""
    found = max(by, int(channels + by / 2) // by * by)
    return found if found >= 0.9 * channels else found + by


def named_block(name: str) -> dict[str, Any] | None:
    """What a block's name sets: ``k5_e6_se0.25`` or ``conv_k3``; None for what is no name of a block."""
    op = next((op for op in NAMED if name == op or name.startswith(f"{op}_")), "mbconv")
    found: dict[str, Any] = {"op": op, **NAMED[op]}
    for token in filter(None, name.removeprefix(op).split("_")):
        letters, number = re.fullmatch(r"([a-z]*)([0-9.]*)", token).groups() if token.isascii() else ("", "")  # type: ignore[union-attr]
        try:
            field, kind = TOKENS[letters]
            found[field] = kind(number)
        except (KeyError, ValueError):
            return None
    return found


def chosen(net, setting: Any, branch: Callable[[Any], Any]) -> Any:
    """``branch(value)`` of a setting."""
    if not isinstance(setting, Decision):
        return branch(setting)
    return net.choice(setting.name, {option: lambda o=option: branch(o) for option in setting.options})


def layer(net, x: Any, settings: Mapping[str, Any], widths: tuple[Width, Width], stride: int, style: Style, name: str):
    """One layer (H, W, C) to (H / stride, W / stride, C'), as a block that tables of latencies know.

    Args:
        net: builder.
        x: input.
        settings: of each of `FIELDS`.
        widths: of input and output.
        stride: 1 or 2.
        style: of the family.
        name: of the block.
    """
    same = stride == 1 and widths[0] == widths[1]

    def fill(properties):
        # widths and groups are static, so there is a branch for each
        for what in ("expand", "groups"):
            if isinstance(properties[what], Decision):
                return chosen(net, properties[what], functools.partial(refill, properties, what))
        return _OPS[properties["op"]](net, x, properties, widths, stride, style, same)

    def refill(properties, what, value):
        return fill({**properties, **(named_block(value) or {} if what == "block" else {what: value})})

    with net.block(describe, name):
        return chosen(net, settings["block"], functools.partial(refill, settings, "block"))


def mbconv(net, x, p, widths, stride, style, same):
    """Expand by 1x1, depthwise, squeeze-and-excitation, project by 1x1 without activation; shortcut."""
    mid, y = widths[0](net, lambda c: divisible(c * p["expand"])), x
    if p["expand"] != 1 or style.always_expand:
        with net.scope("expand"):
            y = _normal(net, net.conv(y, mid, 1, groups=p["groups"]), p["activation"])
            y = net.channel_shuffle(y, p["groups"]) if p["groups"] > 1 else y
    with net.scope("depthwise"):
        y = chosen(net, p["kernel"], lambda k: net.batch_norm(net.conv(y, mid, k, stride=stride, groups=mid)))
        y = _activation(net, y, p["activation"])
    y = squeeze_excite(net, y, p["se"], widths[0], mid, p["expand"], style)
    with net.scope("project"):
        y = net.batch_norm(net.conv(y, widths[1](net), 1, groups=p["groups"]))
    return shortcut(net, x, y, p["skip"], same)


def conv(net, x, p, widths, stride, style, same):
    """A full convolution, batch norm, activation; squeeze-and-excitation; shortcut."""
    width = widths[1](net)
    y = chosen(net, p["kernel"], lambda k: net.batch_norm(net.conv(x, width, k, stride=stride)))
    y = _activation(net, y, p["activation"])
    return shortcut(net, x, squeeze_excite(net, y, p["se"], widths[1], width, 1, style), p["skip"], same)


def bottleneck(net, x, p, widths, stride, style, same):
    """ResNet's: 1x1 to `expand` times the output's channels, a full convolution, 1x1, added to the shortcut.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; stride in the middle, as later ones have it.
    """
    mid = widths[1](net, lambda c: divisible(c * p["expand"]))
    with net.scope("reduce"):
        y = _normal(net, net.conv(x, mid, 1), p["activation"])
    with net.scope("middle"):
        y = chosen(net, p["kernel"], lambda k: net.batch_norm(net.conv(y, mid, k, stride=stride)))
        y = _activation(net, y, p["activation"])
    with net.scope("project"):
        y = net.batch_norm(net.conv(y, widths[1](net), 1))
    if not same:
        with net.scope("shortcut"):
            x = net.batch_norm(net.conv(x, widths[1](net), 1, stride=stride))
    return _activation(net, net.add([y, x]), p["activation"])


def identity(net, x, p, widths, stride, style, same):
    """Nothing; or a 1x1 convolution with batch norm where the shape changes."""
    if same:
        return x
    y = net.batch_norm(net.conv(x, widths[1](net), 1, stride=stride))
    return _activation(net, y, p["activation"]) if style.shortcut_activation else y


_OPS = {"mbconv": mbconv, "conv": conv, "bottleneck": bottleneck, "identity": identity}


def squeeze_excite(net, x: Any, ratio: Any, width: Width, channels: Any, expand: float, style: Style) -> Any:
    """Channels gated by what is seen of the whole image; `ratio` 0 leaves x as it is."""

    def gated(ratio):
        if ratio == 0:
            return x
        if style.squeeze_of == "input":
            squeezed = width(net, lambda c: max(1, int(c * ratio)))
        else:
            squeezed = width(net, lambda c: divisible(divisible(c * expand) * ratio))
        with net.scope("se"):
            gate = net.activation(
                net.linear(net.global_avg_pool(x), squeezed, name="squeeze"), style.squeeze_activation
            )
            return net.multiply(x, net.activation(net.linear(gate, channels, name="excite"), style.gate))

    return chosen(net, ratio, gated)


def shortcut(net, x: Any, y: Any, kind: Any, same: bool) -> Any:
    """Adds to y its layer's input, or the 3x3 mean of that, where both have one shape."""
    if not same:
        return y
    branches = {"none": lambda: y, "identity": lambda: net.add([x, y]), "pool": lambda: net.add([net.avg_pool(x), y])}
    return chosen(net, kind, lambda kind: branches[kind]())


def _normal(net, x, activation):
    return _activation(net, net.batch_norm(x), activation)


def _activation(net, x, setting):
    return chosen(net, setting, lambda kind: net.activation(x, kind))


def describe(layers: Sequence[Layer]) -> str:
    """The kind of a block, from its layers: ``mbconv_k5_e6-kernel:5-stride:1-mid:144-groups:1-se:0-...``.

    `mid` are the channels of the depthwise convolution, `se` those between the dense layers of the gate, 0 for none.
    """
    convs = [x for x in layers if x.op == "conv"]
    if not convs:
        return layers[0].op
    main = max(convs, key=lambda x: x.attributes["kernel"])
    kernel, mid, groups = main.attributes["kernel"][0], main.attributes["features"], convs[0].attributes["groups"]
    depthwise = main.attributes["groups"] > 1
    kinds = [x.attributes["kind"] for x in layers if x.op == "activation"]
    squeezed = next((x.attributes["features"] for x in layers if x.op == "linear"), 0)
    plain = "conv" if len(convs) == 1 else "bottleneck"
    kind = f"mbconv_k{kernel}_e{mid / convs[0].input_shapes[0][-1]:.3g}" if depthwise else f"{plain}_k{kernel}"
    grouped = groups if depthwise and convs[0] is not main else 1
    kind += f"_g{grouped}" * (grouped > 1) + "_se" * (squeezed > 0)
    skip = "pool" if any(x.op == "avg_pool" for x in layers) else int(layers[-1].op == "add")
    facts = dict(kernel=kernel, stride=main.attributes["stride"][0], mid=mid, groups=grouped, se=squeezed)
    facts |= dict(activation=kinds[0] if kinds else "none", skip=skip)
    return kind + "".join(f"-{name}:{value}" for name, value in facts.items())


def check(what: str, field: str, values: Sequence[Any]) -> None:
    """Refuses values that a property cannot have.

    Raises:
        BadInput: names the first of them.
    """
    bad = next((v for v in values if isinstance(v, bool) or not FIELDS[field](v)), None)
    if bad is not None:
        raise BadInput(f"{what}: {field} {bad!r} is none; {EXAMPLES[field]}")


EXAMPLES = {
    "block": "such as 'mbconv', 'sep_conv', 'conv_k3', 'k5_e6', 'k3_e1_g2' or 'identity'",
    "kernel": "an odd number from 1 to 11",
    "expand": "a number above 0, such as 6",
    "groups": "1, 2, 4 or 8",
    "se": "a ratio from 0 (none) to 1, such as 0.25",
    "activation": "one of " + ", ".join(ACTIVATIONS),
    "skip": "identity, pool or none",
}
