"""Composite operations of the field, as layers: ReLU-Conv-BN, separable and dilated convolutions, reductions."""

from typing import Any


def conv_bn(net, x: Any, features: Any, kernel: int = 1) -> Any:
    """Convolution without bias, batch norm."""
    return net.batch_norm(net.conv(x, features, kernel))


def relu_conv_bn(net, x: Any, features: Any, kernel: int = 1, *, stride: int = 1) -> Any:
    """ReLU, convolution without bias, batch norm."""
    return net.batch_norm(net.conv(net.activation(x), features, kernel, stride=stride))


def factorized_reduce(net, x: Any, features: int) -> Any:
    """ReLU, two 1x1 convolutions of stride 2, one shifted by a pixel, concatenated; batch norm (NASNet; DARTS)."""
    x = net.activation(x)
    halves = [
        net.conv(x, features // 2, 1, stride=2, name="conv_1"),
        net.conv(net.offset(x), features - features // 2, 1, stride=2, name="conv_2"),
    ]
    return net.batch_norm(net.concat(halves))


def sep_conv(net, x: Any, features: int, kernel: int, *, stride: int = 1) -> Any:
    """ReLU, depthwise, pointwise, batch norm, twice; the stride in the first (NASNet, appendix A.4)."""
    for part, s in (("1", stride), ("2", 1)):
        channels = net.shape(x)[-1]
        x = net.activation(x, name=f"relu_{part}")
        x = net.conv(x, channels, kernel, stride=s, groups=channels, name=f"depthwise_{part}")
        # the width changes only in the second pointwise convolution, as in DARTS
        x = net.conv(x, features if part == "2" else channels, 1, name=f"pointwise_{part}")
        x = net.batch_norm(x, name=f"batch_norm_{part}")
    return x


def dil_conv(net, x: Any, features: int, kernel: int, *, stride: int = 1) -> Any:
    """ReLU, depthwise with dilation 2, pointwise, batch norm (DARTS)."""
    channels = net.shape(x)[-1]
    x = net.conv(net.activation(x), channels, kernel, stride=stride, dilation=2, groups=channels, name="depthwise")
    return net.batch_norm(net.conv(x, features, 1, name="pointwise"))


def conv_1xk_kx1(net, x: Any, features: int, kernel: int, *, stride: int = 1) -> Any:
    """ReLU, 1xk then kx1 convolution, batch norm (NASNet, AmoebaNet)."""
    x = net.conv(net.activation(x), features, (1, kernel), stride=(1, stride), name=f"conv_1x{kernel}")
    return net.batch_norm(net.conv(x, features, (kernel, 1), stride=(stride, 1), name=f"conv_{kernel}x1"))


def classifier(net, x: Any, classes: int) -> Any:
    """Global average pool and a dense layer."""
    with net.block("head"):
        return net.linear(net.global_avg_pool(x), classes)
