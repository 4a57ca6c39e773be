"""Once-for-all's elastic ResNet: depth and channels of each stage, and the ratio of each bottleneck.

Cai et al., "Once-for-All", ICLR 2020; the space is that of the authors' ResNet50 release (``OFAResNets``).
"""

from collections.abc import Sequence
from dataclasses import replace

from nas.errors import BadInput
from nas.space import Macro, SearchSpace
from search_spaces.mobile import Frame, Stage, mobile_space
from search_spaces.mobile_blocks import divisible

CHANNELS, LAYERS, STRIDES = (256, 512, 1024, 2048), (4, 4, 6, 4), (2, 2, 2, 2)


def ofa_resnet(
    ratios: Sequence[float] = (0.2, 0.25, 0.35),
    multipliers: Sequence[float] = (0.65, 0.8, 1.0),
    fewer: Sequence[int] = (2, 1, 0),
    channels: Sequence[int] = CHANNELS,
    layers: Sequence[int] = LAYERS,
    side: int = 224,
) -> SearchSpace:
    """Stages of bottlenecks around ResNet50 (4, 4, 6, 4 layers at most); ratios are of a layer's output channels.

    The authors' stem of three convolutions, itself elastic, is one of a fixed width here, with a stride of 2 as well;
    their pooling in shortcuts is a stride, and the image has one size.

    Args:
        ratios: channels inside of a bottleneck, of those it gives.
        multipliers: of a stage's channels.
        fewer: layers a stage may leave out.
        channels: of each stage, before the multiplier; fewer stages make a smaller network.
        layers: most of each stage.
        side: of the image.

    Raises:
        BadInput: options that are not numbers above zero, a stage of fewer layers than it may leave out, and as
            `search_spaces.mobile.mobile_space` does.
    """
    if len(channels) != len(layers) or not 1 <= len(channels) <= len(STRIDES):
        raise BadInput(f"ofa_resnet: {len(channels)} channels and {len(layers)} layers; give 1 to 4 stages, each both")
    if min(layers) <= max(fewer, default=0) or min(fewer, default=0) < 0:
        raise BadInput(f"ofa_resnet: stages of {list(layers)} layers cannot leave out {list(fewer)}; one must stay")
    if not multipliers or any(isinstance(m, bool) or not isinstance(m, int | float) or m <= 0 for m in multipliers):
        raise BadInput(f"ofa_resnet: multipliers are {list(multipliers)}; give numbers above 0, such as [0.65, 1]")
    stages = []
    for stage_channels, most, stride in zip(channels, layers, STRIDES, strict=False):
        wide = tuple(dict.fromkeys(divisible(stage_channels * m) for m in multipliers))
        options = {"channels": wide, "layers": tuple(most - n for n in fewer), "expand": tuple(ratios)}
        stages.append(Stage(max(wide), most, stride, {"block": "bottleneck"}, options))
    macro = Macro(64, 1, (side, side, 3), 1000)
    arguments = {"ratios": list(ratios), "multipliers": list(multipliers), "fewer": list(fewer)}
    arguments |= {"channels": list(channels), "layers": list(layers), "side": side}
    return replace(mobile_space("ofa_resnet", Frame(64, tuple(stages), head=0), macro=macro), arguments=arguments)
