"""Mobile search spaces of the literature, each a call: FBNet, ProxylessNAS, MnasNet and NAS-Bench-Macro."""

from collections.abc import Sequence

import numpy as np

from nas.errors import BadInput
from nas.space import Macro, SearchSpace
from search_spaces.mobile import Frame, Stage, mobile_space
from search_spaces.mobile_blocks import Style, divisible

FBNET = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
PROXYLESSNAS = ("k3_e3", "k3_e6", "k5_e3", "k5_e6", "k7_e3", "k7_e6")
NAS_BENCH_MACRO = ("identity", "k3_e3", "k5_e6")
MNASNET = ("conv", "sep_conv", "mbconv_e3", "mbconv_e6")
# channels, layers and stride of each stage of MobileNetV2
MOBILENET_V2 = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


def fbnet(
    blocks: Sequence[str] = FBNET, head: int = 1504, most_layers: int | None = None, width: int = 16
) -> SearchSpace:
    """FBNet: 22 layers of one of 9 blocks, 10^21 networks; 32x32 images and 100 classes by default.

    Wu et al., "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture Search", CVPR
    2019, as HW-NAS-Bench (Li et al., ICLR 2021) and HELP's tables have it, also for CIFAR-100, where the first two
    strides are 1. On ImageNet its head has 1,984 channels.

    Args:
        blocks: the options of every layer.
        head: channels of the last convolution.
        most_layers: of a stage, for a smaller program than the published one.
        width: of the stem.
    """
    plan = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
    stages = tuple(Stage(c, n, s, options={"block": tuple(blocks)}) for c, n, s in plan)
    style = Style(always_expand=True, shortcut_activation=True)
    return mobile_space(
        "fbnet",
        Frame(16, stages, head, style=style),
        macro=Macro(width, 1, (32, 32, 3), 100),
        most_layers=most_layers,
        arguments={"blocks": list(blocks), "head": head},
    )


def proxylessnas(blocks: Sequence[str] = PROXYLESSNAS, most_layers: int | None = None, width: int = 32) -> SearchSpace:
    """ProxylessNAS's mobile space: 21 layers of one of 6 inverted residuals, or none where the shape stays.

    Cai, Zhu and Han, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR 2019. A
    separable convolution before them is fixed.

    Args:
        blocks: the options of every layer.
        most_layers: of a stage, for a smaller program than the published one.
        width: of the stem.
    """
    relu6, first = {"activation": "relu6"}, {"block": tuple(blocks)}
    later = {"block": (*blocks, "skip")}
    stages = [Stage(16, 1, 1, {**relu6, "block": "sep_conv"})]
    for channels, layers, stride in ((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)):
        stages.append(Stage(channels, 1, stride, relu6, first))
        stages += [Stage(channels, layers - 1, 1, relu6, later)] if layers > 1 else []
    return mobile_space(
        "proxylessnas",
        Frame(32, tuple(stages), 1280, activation="relu6"),
        macro=Macro(width, 1, (224, 224, 3), 1000),
        most_layers=most_layers,
        arguments={"blocks": list(blocks)},
    )


def mnasnet(
    blocks: Sequence[str] = MNASNET, stages: int = 7, most_layers: int | None = None, width: int = 32
) -> SearchSpace:
    """MnasNet's factorised space: block, kernel, squeeze-and-excitation, skip, channels and layers of 7 stages.

    Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile", CVPR 2019. All layers of a stage are
    alike; up to 432 choices a stage. Channels are 0.75, 1 or 1.25 times MobileNetV2's and layers one less, as many or
    one more, at least one. Where the paper leaves it open: its four operations are a convolution, a separable one and
    inverted residuals of ratio 3 and 6; pooling in a skip is the 3x3 mean of the layer's input; layers that change the
    shape have no skip.

    Args:
        blocks: the operations.
        stages: the first so many of the 7, for a smaller program.
        most_layers: of a stage, for a smaller program than the published one.
        width: of the stem.
    """
    if isinstance(stages, bool) or not isinstance(stages, int) or not 1 <= stages <= len(MOBILENET_V2):
        raise BadInput(f"mnasnet: stages is {stages!r}; it must be a whole number from 1 to {len(MOBILENET_V2)}")
    found = []
    for channels, layers, stride in MOBILENET_V2[:stages]:
        options = {
            "channels": tuple(sorted({divisible(channels * m) for m in (0.75, 1, 1.25)})),
            "layers": tuple(sorted({max(1, n) for n in (layers - 1, layers, layers + 1)})),
            "block": tuple(blocks),
            "kernel": (3, 5),
            "se": (0, 0.25),
            "skip": ("none", "identity", "pool"),
        }
        found.append(Stage(channels, layers, stride, options=options))
    return mobile_space(
        "mnasnet",
        Frame(32, tuple(found), 1280, style=Style(gate="sigmoid")),
        per="stage",
        macro=Macro(width, 1, (224, 224, 3), 1000),
        most_layers=most_layers,
        arguments={"blocks": list(blocks), "stages": stages},
    )


def nas_bench_macro(most_layers: int | None = None, width: int = 32) -> SearchSpace:
    """NAS-Bench-Macro: 8 layers of one of 3 blocks, 6,561 networks, all trained on CIFAR-10.

    Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021. Strides are those of 32x32
    images; an identity that halves the image is a 1x1 convolution.

    Args:
        most_layers: of a stage, for a smaller program than the published one.
        width: of the stem.
    """
    stages = tuple(Stage(c, n, 2, options={"block": NAS_BENCH_MACRO}) for c, n in ((64, 2), (128, 3), (256, 3)))
    return mobile_space(
        "nas_bench_macro",
        Frame(32, stages, 1280, stem_stride=1),
        macro=Macro(width, 1, (32, 32, 3), 10),
        most_layers=most_layers,
    )


# ---- rows as numbers of options, as the tables have them ---------------------------------------------------------
def to_digits(row, separator: str = "-") -> str:
    """A row as its numbers: HELP's ``op_idx`` of FBNet joins them by ``-``, NAS-Bench-Macro by nothing."""
    return separator.join(str(int(i)) for i in row)


def from_digits(text: str, space: SearchSpace, separator: str = "-") -> np.ndarray:
    """The row int32[L] of what `to_digits` writes.

    Raises:
        BadInput: not as many whole numbers as the space has decisions, or beyond their options.
    """
    parts = text.strip().split(separator) if separator else list(text.strip())
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise BadInput(f"'{text[:60]}': not whole numbers joined by '{separator}'")
    return space.check(np.asarray([int(part) for part in parts]))
