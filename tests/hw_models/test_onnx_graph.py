"""ONNX files give what the Flax network gives, by another runtime."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from hw_models.onnx_graph import to_onnx
from nas.builder import LayerBuilder
from nas.cost import sample_rows
from nas.errors import BadInput
from nas.layers import ACTIVATIONS, OPS
from nas.network import Network
from nas.space import Macro
from search_spaces import SPACES

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")

# small enough to compile in seconds; a space that is not here is taken as it is
CELLS = {"darts": 2, "nasnet": 2, "amoebanet": 3}
MACROS = {name: Macro(4, 3, (8, 8, 3), 5) for name in CELLS}
MACROS |= {name: Macro(8, 1, (32, 32, 3), 5) for name in ("fbnet", "proxylessnas", "mnasnet", "mobile", "ofa_mbv3")}
SMALL = {name: {"most_layers": 1} for name in ("fbnet", "proxylessnas", "mnasnet")} | {
    "ofa_mbv3": {"resolutions": [24, 32], "depths": [1, 2]}
}
MACROS |= {"nasbench201": Macro(4, 1, (8, 8, 3), 5), "nats_size": Macro(8, 1, (8, 8, 3), 5)}


def trained(layers, seed=0):
    """A network as training leaves it: no scale of one, no mean of zero."""
    network = Network(layers, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)

    def value(path, like):
        name = path[-1].key
        if name == "kernel":
            return like
        return rng.uniform(0.5, 2.0, like.shape) if name in ("scale", "var") else rng.normal(size=like.shape)

    network.load(*(jax.tree_util.tree_map_with_path(value, part) for part in network.weights()))
    network.eval()
    return network


def run(model, *inputs):
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {i.name: np.asarray(x, np.float32) for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return session.run(["output"], feeds)[0]


def agree(layers, images=3, **options):
    network = trained(layers)
    x = np.random.default_rng(1).normal(size=(images, *layers[0].output_shape)).astype(np.float32)
    wanted = np.asarray(nnx.jit(lambda m, x: m(x))(network, x))
    model = to_onnx(layers, *network.weights(), **options)
    found = run(model, x if options.get("layout", "NHWC") == "NHWC" else x.transpose(0, 3, 1, 2))
    if wanted.ndim == 4:
        found = found.transpose(0, 2, 3, 1)
    assert found.shape == wanted.shape
    # against the size of the outputs, which grow over unnormalised layers
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(wanted).max()))
    return model


TEXTS = ("darts_rnn", "gpt", "hat")
OF_TEXTS = {"embedding", "state", "highway", "mean", "decode", "layer_norm", "attention"}
OF_TEXTS |= {"span", "placed", "attend", "join", "unembed"}


@pytest.mark.parametrize("name", TEXTS)
def test_networks_that_read_a_text_are_refused(name):
    space = SPACES[name]()
    with pytest.raises(BadInput, match="read a text are not exported"):
        to_onnx(space.layers(sample_rows(space, 1)[0], space.macro), {}, {})


@pytest.mark.parametrize("name", [name for name in SPACES if name not in TEXTS])
def test_every_space_gives_the_outputs_of_flax(name):
    space = SPACES[name](**({"nodes": CELLS[name]} if name in CELLS else SMALL.get(name, {})))
    row = sample_rows(space, 2, seed=3)[1]
    model = agree(space.layers(row, MACROS.get(name, space.macro)))
    used = {node.op_type for node in model.graph.node}
    assert {"Conv", "Gemm"} <= used


def network_of_everything(net):
    """Every operation and option that a layer list can hold."""
    x = net.resize(net.resize(net.input, (7, 23), name="other_size"), net.shape(net.input)[:2], name="and_back")
    x = net.conv(x, 8, 3, stride=(1, 2), bias=True, name="strided")
    x = net.batch_norm(x, name="folded")
    x = net.conv(x, 8, (1, 3), groups=2, dilation=2, name="grouped")
    y = net.batch_norm(x, affine=False, name="plain")  # x is read twice: it stays a node
    x = net.add([x, y, net.conv(net.zeros(net.shape(x)), 8, 1, bias=True, name="of_zeros")])
    x = net.conv(net.channel_shuffle(x, 2), 8, 5, groups=8, name="depthwise")
    x = net.multiply(x, net.activation(net.global_avg_pool(x, name="seen"), "sigmoid", name="gate"))
    for kind in ACTIVATIONS:
        x = net.activation(x, kind)
    parts = [net.avg_pool(x, 3, stride=2), net.max_pool(x, 3, stride=2)]
    parts.append(net.avg_pool(net.offset(x), 3, stride=2, name="shifted"))
    x = net.concat(parts, keep=[True, True, False])
    x = net.concat([net.avg_pool(x, 2, name="even"), net.max_pool(x, 2, name="even_max")], name="pools")
    x = net.concat([net.avg_pool(x, 4, name="four"), net.max_pool(x, 4, name="four_max")], name="fours")
    x = net.linear(x, 6, name="on_positions")
    x = net.batch_norm(net.offset(x, name="last_offset"), name="alone")
    return net.linear(net.global_avg_pool(x), 5, bias=False)


def everything():
    net = LayerBuilder((11, 18, 3), (), ())
    return net.finish(network_of_everything(net))


@pytest.mark.parametrize("options", [{}, {"layout": "NCHW"}, {"batch": 3}], ids=str)
def test_every_operation_gives_the_outputs_of_flax(options):
    layers = everything()
    assert {layer.op for layer in layers} == set(OPS) - OF_TEXTS
    model = agree(layers, **options)
    kept = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(kept) == 2 and sum(layer.op == "batch_norm" for layer in layers) == 3


def test_a_network_may_give_an_image_and_take_several():
    net = LayerBuilder((6, 6, 4), (), ())
    agree(net.finish(net.max_pool(net.conv(net.input, 4, 3), 3)))


def test_the_input_is_normalised_in_the_graph():
    layers = everything()
    network = trained(layers)
    x = np.random.default_rng(0).uniform(size=(2, *layers[0].output_shape)).astype(np.float32)
    mean, std = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.1])
    plain = run(to_onnx(layers, *network.weights()), (x - mean) / std)
    inside = run(to_onnx(layers, *network.weights(), mean=mean, std=std), x)
    np.testing.assert_allclose(inside, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


def test_the_file_says_what_it_holds_and_older_runtimes_read_it():
    net = LayerBuilder((6, 6, 4), (), ())
    layers = net.finish(net.linear(net.global_avg_pool(net.input), 2))
    model = to_onnx(layers, *trained(layers).weights(), metadata={"classes": ["cat", "dog"]})
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == {"classes": ["cat", "dog"]}
    assert model.opset_import[0].version == 17 and model.ir_version == 8
    (images,), (output,) = model.graph.input, model.graph.output
    dims = lambda value: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]  # noqa: E731
    assert (images.name, dims(images)) == ("images", ["N", 6, 6, 4])
    assert (output.name, dims(output)) == ("output", ["N", 2])


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(BadInput, match=r"pip install 'nas-jax\[onnx\]'"):
        to_onnx((), {}, {})
