"""Once-for-all's elastic MobileNetV3: kernel, expand ratio, depth of each stage, and resolution.

Cai, Gan, Wang, Zhang and Han, "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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
MOST = max(DEPTHS)


def ofa_mbv3(
    width: float = 1.0, resolutions: Sequence[int] = RESOLUTIONS, kernels: Sequence[int] = KERNELS
) -> SearchSpace:
    """The paper's space of 10^19 networks; stages of 2 to 4 layers, each with a kernel and an expand ratio of its own.

    Layers that are not there choose option 0. The image is brought to the chosen resolution by the network itself, so a
    trained one takes images of any size that its macro says.

    Args:
        width: width multiplier; the published networks have 1.0 and 1.2.
        resolutions: sides of the image, multiples of 32 but for the last rounding; one for a fixed resolution.
        kernels: sizes of the depthwise convolutions.

    Raises:
        BadInput: a width that is not above 0 and at most 4, or resolutions that are not whole numbers from 32 to 1024.
    """
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 4:
        raise BadInput(f"ofa_mbv3: width is {width!r}; the multiplier must be above 0 and at most 4, such as 1.2")
    bad = [r for r in resolutions if isinstance(r, bool) or not isinstance(r, int) or not 32 <= r <= 1024]
    if bad or not resolutions:
        raise BadInput(f"ofa_mbv3: resolution {bad[0] if bad else 'none'}; give whole numbers from 32 to 1024")
    wide = lambda channels: divisible(channels * width)  # noqa: E731
    stages = [Stage(wide(16), fixed={"expand": 1})]
    for channels, stride, se, activation in STAGES:
        options = {"layers": DEPTHS, "kernel": tuple(kernels), "expand": EXPANDS}
        stages.append(Stage(wide(channels), MOST, stride, {"se": se, "activation": activation}, options))
    frame = Frame(
        wide(16),
        tuple(stages),
        head=wide(960),
        features=wide(1280),
        activation="hard_swish",
        features_bias=False,
        resolutions=tuple(resolutions),
    )
    side = max(resolutions)
    return mobile_space(
        "ofa_mbv3",
        frame,
        macro=Macro(wide(16), 1, (side, side, 3), 1000),
        arguments={"width": width, "resolutions": list(resolutions), "kernels": list(kernels)},
    )


def to_encoding(row: Any, space: SearchSpace) -> dict[str, Any]:
    """A row as once-for-all's encoding: ``ks``, ``e`` (20 each), ``d`` (5) and ``r``.

    Layers that are not there have the smallest kernel and ratio, where once-for-all has any.
    """
    found = space.decode(row)
    layers = range(1, 1 + MOST * len(STAGES))
    return {
        "ks": [found[f"layer_{i}_kernel"] for i in layers],
        "e": [found[f"layer_{i}_expand"] for i in layers],
        "d": [found[f"stage_{s}_layers"] for s in range(1, 1 + len(STAGES))],
        "r": found["resolution"],
    }


def from_encoding(encoding: Mapping[str, Any], space: SearchSpace) -> np.ndarray:
    """The row int32[L] of an encoding; what it says of layers that are not there is dropped.

    Raises:
        BadInput: a part is missing, too short or too long, or holds a value that the space does not have.
    """
    counts = {"ks": MOST * len(STAGES), "e": MOST * len(STAGES), "d": len(STAGES)}
    for name, count in counts.items():
        if len(encoding.get(name, ())) != count:
            raise BadInput(f"encoding: '{name}' must hold {count} numbers, and holds {len(encoding.get(name, ()))}")
    if "r" not in encoding:
        raise BadInput("encoding: 'r', the resolution, is missing")
    choices: dict[str, Any] = {"resolution": encoding["r"]}
    for s, depth in enumerate(encoding["d"]):
        choices[f"stage_{s + 1}_layers"] = depth
        for k in range(MOST):
            i, there = s * MOST + k, depth > k
            choices[f"layer_{i + 1}_kernel"] = encoding["ks"][i] if there else KERNELS[0]
            choices[f"layer_{i + 1}_expand"] = encoding["e"][i] if there else EXPANDS[0]
    return space.encode(choices)
