"""Layers under the roofline, against figures worked out by hand."""

import pytest

from hw_models.roofline import roofline
from nas.builder import LayerBuilder
from nas.errors import BadInput


def layers():
    net = LayerBuilder((8, 8, 16), (), ())
    x = net.activation(net.conv(net.input, 32, 3))
    return net.finish(net.linear(net.global_avg_pool(x), 10))


def test_bytes_and_intensity_are_those_of_the_textbook():
    conv, relu, pool, head = roofline(layers(), gflops=100, gbytes=10, batch=2)
    assert conv.macs == 2 * 8 * 8 * 32 * 9 * 16
    assert conv.bytes == 4 * (2 * (8 * 8 * 16 + 8 * 8 * 32) + 9 * 16 * 32)
    assert conv.intensity == pytest.approx(2 * conv.macs / conv.bytes) and not conv.memory_bound  # 54 above 100 / 10
    assert conv.least_ms == pytest.approx(2 * conv.macs / 100e9 * 1e3)
    assert relu.macs == 0 and relu.memory_bound and relu.least_ms == pytest.approx(4 * 2 * 2 * 8 * 8 * 32 / 10e9 * 1e3)
    assert pool.memory_bound and head.memory_bound and head.bytes == 4 * (2 * (32 + 10) + 32 * 10 + 10)


def test_the_ridge_decides():
    (conv, *_) = roofline(layers(), gflops=100, gbytes=10)
    (slow, *_) = roofline(layers(), gflops=100, gbytes=100 / conv.intensity * 0.99)
    (fast, *_) = roofline(layers(), gflops=100, gbytes=100 / conv.intensity * 1.01)
    assert slow.memory_bound and not fast.memory_bound


def test_peaks_must_be_above_zero():
    with pytest.raises(BadInput, match="above zero"):
        roofline(layers(), gflops=0, gbytes=10)
