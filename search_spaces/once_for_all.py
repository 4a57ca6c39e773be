"""Once-for-all's elastic MobileNetV3: kernel, expand ratio, depth of each stage, and resolution.

Cai, Gan, Wang, Zhang and Han, "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nas.errors import BadInput
from nas.space import Macro, SearchSpace
from search_spaces.mobile import Frame, Stage, mobile_space
from search_spaces.mobile_blocks import divisible

RESOLUTIONS = tuple(range(128, 225, 16))  # the paper trains 128 to 224 in steps of 4
KERNELS, EXPANDS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
# channels, stride, squeeze-and-excitation and activation of the five elastic stages
STAGES = (
    (24, 2, 0, "relu"),
    (40, 2, 0.25, "relu"),
    (80, 2, 0, "hard_swish"),
    (112, 1, 0.25, "hard_swish"),
    (160, 2, 0.25, "hard_swish"),
)


class Size(NamedTuple):
    """Channels of the stem, elastic stages as in `STAGES`, channels of the last convolution and of the dense layer."""

    stem: int
    stages: tuple[tuple[int, int, float, str], ...]
    head: int
    features: int


PAPER = Size(16, STAGES, 960, 1280)
SMALL = Size(32, ((24, 2, 0, "relu"), (40, 2, 0, "relu"), (80, 1, 0, "relu")), 320, 0)


def ofa_mbv3(
    width: float = 1.0,
    resolutions: Sequence[int] = RESOLUTIONS,
    kernels: Sequence[int] = KERNELS,
    expands: Sequence[int] = EXPANDS,
    depths: Sequence[int] = DEPTHS,
) -> SearchSpace:
    """The paper's space of 10^19 networks; stages of 2 to 4 layers, each with a kernel and an expand ratio of its own.

    Layers that are not there choose option 0. The image is brought to the chosen resolution by the network itself, so a
    trained one takes images of any size that its macro says.

    Args:
        width: width multiplier; the published networks have 1.0 and 1.2.
        resolutions: sides of the image; one for a fixed resolution.
        kernels: sizes of the depthwise convolutions.
        expands: ratios of the inverted residuals.
        depths: layers of a stage.

    Raises:
        BadInput: a width that is not above 0 and at most 4, or resolutions that are not whole numbers from 8 to 1024.
    """
    return _elastic("ofa_mbv3", PAPER, 1000, width, resolutions, kernels, expands, depths)


def ofa_mbv3_small(
    width: float = 1.0,
    resolutions: Sequence[int] = (32,),
    kernels: Sequence[int] = KERNELS,
    expands: Sequence[int] = EXPANDS,
    depths: Sequence[int] = (1, 2, 3),
) -> SearchSpace:
    """`ofa_mbv3` for images of 32x32: three stages, of 24, 40 and 80 channels, at 8x8, 4x4 and 4x4 pixels.

    Ours, for training whole supernets on small machines. Its blocks are MobileNetV2's (ReLU, no squeeze-and-excitation)
    and of the sizes that published tables of CIFAR-10 blocks have. The arguments are those of `ofa_mbv3`.
    """
    return _elastic("ofa_mbv3_small", SMALL, 10, width, resolutions, kernels, expands, depths)


def _elastic(name, size, classes, width, resolutions, kernels, expands, depths) -> SearchSpace:
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 4:
        raise BadInput(f"{name}: width is {width!r}; the multiplier must be above 0 and at most 4, such as 1.2")
    bad = [r for r in resolutions if isinstance(r, bool) or not isinstance(r, int) or not 8 <= r <= 1024]
    if bad or not resolutions:
        raise BadInput(f"{name}: resolution {bad[0] if bad else 'none'}; give whole numbers from 8 to 1024")
    wide = lambda channels: divisible(channels * width)  # noqa: E731
    stages = [Stage(wide(16), fixed={"expand": 1})]
    for channels, stride, se, activation in size.stages:
        options = {"layers": tuple(depths), "kernel": tuple(kernels), "expand": tuple(expands)}
        stages.append(Stage(wide(channels), max(depths), stride, {"se": se, "activation": activation}, options))
    frame = Frame(
        wide(size.stem),
        tuple(stages),
        head=wide(size.head),
        features=wide(size.features) if size.features else 0,
        activation="hard_swish",
        features_bias=False,
        resolutions=tuple(resolutions),
    )
    side = max(resolutions)
    space = mobile_space(name, frame, macro=Macro(wide(size.stem), 1, (side, side, 3), classes))
    arguments = {"width": width, "resolutions": list(resolutions)}
    arguments |= {"kernels": list(kernels), "expands": list(expands), "depths": list(depths)}
    return replace(space, arguments=arguments, supernet_of=None if len(resolutions) == 1 else _no_supernet)


def _no_supernet(space: SearchSpace, macro: Macro):
    raise BadInput(
        f"{space.name}: networks trained one by one share a program of one image size; fix it with resolutions=[128], "
        "one of them, or train their shared weights (strategy once_for_all)"
    )


def to_encoding(row: Any, space: SearchSpace) -> dict[str, Any]:
    """A row as once-for-all's encoding: ``ks`` and ``e`` of each layer (20), ``d`` of each stage (5), and ``r``.

    Layers that are not there have the first kernel and ratio, where once-for-all has any.
    """
    found = space.decode(row)
    layers = range(1, 1 + _stages(space) * _most(space))
    return {
        "ks": [found[f"layer_{i}_kernel"] for i in layers],
        "e": [found[f"layer_{i}_expand"] for i in layers],
        "d": [found[f"stage_{s}_layers"] for s in range(1, 1 + _stages(space))],
        "r": found["resolution"],
    }


def from_encoding(encoding: Mapping[str, Any], space: SearchSpace) -> np.ndarray:
    """The row int32[L] of an encoding; what it says of layers that are not there is dropped.

    Raises:
        BadInput: a part is missing, too short or too long, or holds a value that the space does not have.
    """
    most = _most(space)
    first = {d.name: d.options[0] for d in space.decisions}
    stages = _stages(space)
    for name, count in {"ks": most * stages, "e": most * stages, "d": stages}.items():
        if len(encoding.get(name, ())) != count:
            raise BadInput(f"encoding: '{name}' must hold {count} numbers, and holds {len(encoding.get(name, ()))}")
    if "r" not in encoding:
        raise BadInput("encoding: 'r', the resolution, is missing")
    choices: dict[str, Any] = {"resolution": encoding["r"]}
    for s, depth in enumerate(encoding["d"]):
        choices[f"stage_{s + 1}_layers"] = depth
        for i in range(s * most, (s + 1) * most):
            there = i < s * most + depth
            for what, part in (("kernel", "ks"), ("expand", "e")):
                name = f"layer_{i + 1}_{what}"
                choices[name] = encoding[part][i] if there else first[name]
    return space.encode(choices)


def _most(space: SearchSpace) -> int:
    return max(space.arguments["depths"])


def _stages(space: SearchSpace) -> int:
    return sum(d.name.startswith("stage_") for d in space.decisions)
