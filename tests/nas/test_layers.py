"""Operations, counts and block keys of the layer list, against numpy and against counting by hand."""

import numpy as np
import pytest
from flax import nnx

from nas.builder import LayerBuilder
from nas.errors import BadInput
from nas.layers import counts, parse_block
from nas.network import Network
from nas.space import Decision


def built(write, shape=(4, 4, 6)):
    net = LayerBuilder(shape, [Decision("width", (4, 8))], [1])
    return net.finish(write(net))


def run(layers, x):
    return np.asarray(Network(layers, rngs=nnx.Rngs(0))(x))


X = np.random.default_rng(0).normal(size=(2, 4, 4, 6)).astype(np.float32)


def test_multiply_scales_each_channel():
    layers = built(lambda net: net.multiply(net.input, net.activation(net.global_avg_pool(net.input), "sigmoid")))
    gate = 1 / (1 + np.exp(-X.mean((1, 2))))
    np.testing.assert_allclose(run(layers, X), X * gate[:, None, None, :], rtol=1e-5)


def test_multiply_of_values_of_one_shape_is_entry_by_entry():
    layers = built(lambda net: net.multiply(net.input, net.activation(net.input)))
    np.testing.assert_allclose(run(layers, X), X * np.maximum(X, 0), rtol=1e-6)


def test_channel_shuffle_deals_the_channels_out():
    layers = built(lambda net: net.channel_shuffle(net.input, 2))
    np.testing.assert_array_equal(run(layers, X), X[..., [0, 3, 1, 4, 2, 5]])


def test_a_width_may_follow_from_a_decision():
    layers = built(lambda net: net.conv(net.input, net.width("width", lambda w: 3 * w), 1))
    assert layers[-1].output_shape == (4, 4, 24)


def squeeze(net):
    with net.block(lambda layers: f"gate-layers:{len(layers)}", "gate"):
        gate = net.linear(net.global_avg_pool(net.input), 2, name="squeeze")
        return net.multiply(net.input, net.linear(net.activation(gate), 6, name="excite"))


def test_counts_of_squeeze_and_excitation():
    found = counts(built(squeeze))
    assert found.params == (6 * 2 + 2) + (2 * 6 + 6)
    assert found.macs == 6 * 2 + 2 * 6
    assert found.memory_bytes == 4 * (96 + 96 + 6), "input, gate and product"


def test_a_block_may_be_named_by_what_is_in_it():
    layers = built(squeeze)
    assert {layer.block for layer in layers[1:]} == {"gate-layers:5-input:4x4x6-output:4x4x6"}
    assert {layer.scope for layer in layers[1:]} == {"gate"}


def test_block_keys_come_apart():
    key = parse_block("mbconv_k5-kernel:5-activation:hard_swish-skip:0-input:8x8x4+8x8x2-output:4x4x8")
    assert key.kind == "mbconv_k5"
    assert key.attributes == {"kernel": 5, "activation": "hard_swish", "skip": 0}
    assert key.inputs == ((8, 8, 4), (8, 8, 2)) and key.output == (4, 4, 8)
    assert parse_block("none-input:none-output:10").inputs == ()


@pytest.mark.parametrize(
    "write, word",
    [
        (lambda net: net.channel_shuffle(net.input, 4), "4 groups"),
        (lambda net: net.multiply(net.input, net.max_pool(net.input, stride=2)), "gate"),
        (lambda net: net.attention(net.linear(net.input, 6), 2), "in a sequence"),
        (lambda net: net.span(net.input, 3, 99), "cannot take tokens 3 to 99"),
        (lambda net: net.span(net.avg_pool(net.input), 0, 2), r"of \(4, 4, 6\)"),
        (lambda net: net.join([net.input, net.linear(net.input, 7)]), "cannot join"),
    ],
)
def test_what_does_not_fit_is_refused(write, word):
    with pytest.raises(BadInput, match=word):
        built(write)
