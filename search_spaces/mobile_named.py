"""Published mobile networks by name, and the space around one of them.

The definitions are torchvision's, whose parameter counts at 1,000 classes are exact: MobileNetV2 (Sandler et al., CVPR
2018), MobileNetV3 (Howard et al., ICCV 2019), EfficientNet-B0 (Tan and Le, ICML 2019) and MnasNet-B1 at width 1 (Tan et
al., CVPR 2019). Dropout and batch norm's epsilon and momentum are not theirs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nas.errors import BadInput, suggest
from nas.space import Macro, SearchSpace
from search_spaces.mobile import DEFAULTS, Frame, Stage, mobile_space
from search_spaces.mobile_blocks import Style, divisible
from search_spaces.mobile_families import MOBILENET_V2


def _stages(*lines: tuple, **fixed: Any) -> tuple[Stage, ...]:
    """(channels, layers, stride, kernel, expand, {further properties}) of each stage."""
    return tuple(
        Stage(channels, layers, stride, {**fixed, "kernel": kernel, "expand": expand, **(more[0] if more else {})})
        for channels, layers, stride, kernel, expand, *more in lines
    )


_SE, _HARD = {"se": 0.25}, {"activation": "hard_swish"}
FRAMES: Mapping[str, Frame] = {
    "mobilenet_v2": Frame(
        stem=32,
        stages=_stages(*((c, n, s, 3, 6 if i else 1) for i, (c, n, s) in enumerate(MOBILENET_V2)), activation="relu6"),
        head=1280,
        activation="relu6",
    ),
    "mobilenet_v3_large": Frame(
        stem=16,
        stages=_stages(
            (16, 1, 1, 3, 1),
            (24, 1, 2, 3, 4),
            (24, 1, 1, 3, 3),
            (40, 3, 2, 5, 3, _SE),
            (80, 1, 2, 3, 6, _HARD),
            (80, 1, 1, 3, 2.5, _HARD),
            (80, 2, 1, 3, 2.3, _HARD),
            (112, 2, 1, 3, 6, _SE | _HARD),
            (160, 3, 2, 5, 6, _SE | _HARD),
        ),
        head=960,
        features=1280,
        activation="hard_swish",
    ),
    "mobilenet_v3_small": Frame(
        stem=16,
        stages=_stages(
            (16, 1, 2, 3, 1, _SE),
            (24, 1, 2, 3, 4.5),
            (24, 1, 1, 3, 3.67),
            (40, 1, 2, 5, 4, _SE | _HARD),
            (40, 2, 1, 5, 6, _SE | _HARD),
            (48, 2, 1, 5, 3, _SE | _HARD),
            (96, 3, 2, 5, 6, _SE | _HARD),
        ),
        head=576,
        features=1024,
        activation="hard_swish",
    ),
    "efficientnet_b0": Frame(
        stem=32,
        stages=_stages(
            (16, 1, 1, 3, 1),
            (24, 2, 2, 3, 6),
            (40, 2, 2, 5, 6),
            (80, 3, 2, 3, 6),
            (112, 3, 1, 5, 6),
            (192, 4, 2, 5, 6),
            (320, 1, 1, 3, 6),
            activation="swish",
            se=0.25,
        ),
        head=1280,
        activation="swish",
        style=Style(squeeze_of="input", squeeze_activation="swish", gate="sigmoid"),
    ),
    "mnasnet_1.0": Frame(
        stem=32,
        stages=_stages(
            (16, 1, 1, 3, 1),
            (24, 3, 2, 3, 3),
            (40, 3, 2, 5, 3),
            (80, 3, 2, 5, 6),
            (96, 2, 1, 3, 6),
            (192, 4, 2, 5, 6),
            (320, 1, 1, 3, 6),
        ),
        head=1280,
    ),
}


def mobile(
    base: str = "mobilenet_v2",
    *,
    per: str = "layer",
    block: Sequence[str] = (),
    kernel: Sequence[int] = (3, 5, 7),
    expand: Sequence[float] = (3, 6),
    se: Sequence[float] = (),
    activation: Sequence[str] = (),
    skip: Sequence[str] = (),
    channels: Sequence[float] = (),
    layers: Sequence[int] = (),
    most_layers: int | None = None,
    width: int | None = None,
) -> SearchSpace:
    """The space around a published network: any of its properties as decisions.

    Option 0 of every decision is the network's own value, so the row of zeros is the network itself.

    Args:
        base: name of the network, out of `FRAMES`.
        per: whether properties are chosen for each ``layer`` or each ``stage``.
        block: such as ``conv``, beside ``mbconv``; empty, as below: not a decision.
        kernel: sizes.
        expand: ratios.
        se: ratios of squeeze-and-excitation, 0 for none.
        activation: out of `nas.layers.ACTIVATIONS`.
        skip: ``identity``, ``pool`` or ``none``.
        channels: multiples of each stage's own, such as 0.75 and 1.25.
        layers: more (1) or fewer (-1) than each stage's own.
        most_layers: of a stage, for a smaller program.
        width: of the stem, by default the network's.
    """
    if base not in FRAMES:
        raise BadInput(f"mobile: no network '{base}'; {suggest(base, FRAMES)}")
    frame = FRAMES[base]
    lists = dict(block=block, kernel=kernel, expand=expand, se=se, activation=activation, skip=skip)
    sizes = dict(channels=channels, layers=layers)
    wrong = next((name for name, values in {**lists, **sizes}.items() if not isinstance(values, list | tuple)), None)
    if wrong:
        raise BadInput(f"mobile: {wrong} takes a list, such as --set {wrong}='[...]'")
    if any(isinstance(m, bool) or not isinstance(m, int | float) or not 0 < m <= 16 for m in channels):
        raise BadInput(f"mobile: channels are {list(channels)}; they are multiples of each stage's own, such as 0.75")
    if any(isinstance(n, bool) or not isinstance(n, int) for n in layers):
        raise BadInput(f"mobile: layers are {list(layers)}; they are added to each stage's own, such as -1 or 1")

    def around(stage: Stage) -> Stage:
        own = {**DEFAULTS, **stage.fixed}
        options = {
            "channels": (stage.channels, *(divisible(stage.channels * m) for m in channels)),
            "layers": (stage.layers, *(max(1, stage.layers + more) for more in layers)),
            **{what: (own[what], *values) for what, values in lists.items()},
        }
        distinct = {what: tuple(dict.fromkeys(values)) for what, values in options.items()}
        return replace(stage, options={what: values for what, values in distinct.items() if len(values) > 1})

    return mobile_space(
        "mobile",
        replace(frame, stages=tuple(map(around, frame.stages))),
        per=per,
        macro=Macro(width or frame.stem, 1, (224, 224, 3), 1000),
        most_layers=most_layers,
        arguments={"base": base, "per": per} | {name: list(values) for name, values in {**lists, **sizes}.items()},
    )


def named(name: str) -> tuple[SearchSpace, np.ndarray]:
    """A published network as a space around it and its row.

    Raises:
        BadInput: no such name; says the nearest.
    """
    space = mobile(name)
    return space, np.zeros(space.length, np.int32)
