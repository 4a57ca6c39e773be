"""PC-DARTS against statements of it written another way: its mixture in plain arrays, its counts in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.errors import BadInput
from nas.mixed import mixed_supernet
from nas.one_shot import Batch
from nas.recipe import Recipe
from nas.space import Decision, Macro, SearchSpace
from search_spaces import SPACES, darts, nasbench201
from search_spaces.ops import classifier, conv_bn
from strategies.pc_darts import pc_darts, weighted

CHANNELS, PART = 6, 3


def one_edge(net, macro, stride):
    """Logits are the means of what one edge makes of the image."""
    branches = {
        "none": lambda x: net.zeros((net.shape(x)[0] // stride, net.shape(x)[1] // stride, net.shape(x)[2])),
        "swish": lambda x: net.activation(x if stride == 1 else net.avg_pool(x, 2, stride=2), "swish"),
        "tanh": lambda x: net.activation(x if stride == 1 else net.avg_pool(x, 2, stride=2), "tanh"),
    }
    return net.global_avg_pool(net.choice("edge", branches, net.input))


def edge_space(stride):
    macro = Macro(CHANNELS, 1, (4, 4, CHANNELS), CHANNELS)
    decisions = (Decision("edge", ("none", "swish", "tanh")),)
    return SearchSpace("edge", decisions, functools.partial(one_edge, stride=stride), macro)


@pytest.mark.parametrize("stride", [1, 2])
def test_an_edge_mixes_the_first_channels_and_shuffles_the_others_in(stride):
    space = edge_space(stride)
    net = mixed_supernet(space, space.macro, part=PART)
    x = np.random.default_rng(0).normal(size=(5, 4, 4, CHANNELS)).astype(np.float32)
    gates = np.asarray([0.2, 0.1, 0.4], np.float32)
    own, rest = x[..., :2], x[..., 2:]
    if stride == 2:
        windows = x.reshape(5, 2, 2, 2, 2, CHANNELS)  # image, row, row in window, column, column in window
        own, rest = windows.mean((2, 4))[..., :2], windows.max((2, 4))[..., 2:]
    swish = own / (1 + np.exp(-own))
    parts = [gates[1] * swish + gates[2] * np.tanh(own), 0.7 * rest]  # what passes by has the weight of its edge
    joined = np.concatenate(parts, -1).mean((1, 2))
    wanted = joined[:, [0, 2, 4, 1, 3, 5]]  # dealt out: the first of each third, then the second of each
    found = net.apply({}, {}, x, jnp.asarray(gates)[None], train=True)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_row_takes_one_operation_and_without_one_nothing_passes(stride):
    space = edge_space(stride)
    net = mixed_supernet(space, space.macro, part=PART)
    x = jax.random.normal(jax.random.key(0), (5, 4, 4, CHANNELS))
    for index in (1, 2):
        row = net.apply({}, {}, x, jnp.asarray([index]), train=False)[0]
        np.testing.assert_allclose(row, net.apply({}, {}, x, jax.nn.one_hot([index], 3), train=False)[0], rtol=1e-5)
    assert not np.asarray(net.apply({}, {}, x, jnp.asarray([0]), train=False)[0]).any()


def test_gates_are_a_softmax_over_operations_times_one_over_the_edges_of_a_node():
    relaxation = nasbench201().relaxation
    logits = np.random.default_rng(0).normal(size=(6, 6))
    gates = np.asarray(weighted(relaxation, jnp.asarray(logits)))
    for node in ([0], [1, 2], [3, 4, 5]):  # edges 0-1; 0-2, 1-2; 0-3, 1-3, 2-3
        total = sum(np.exp(logits[edge, 5]) for edge in node)
        for edge in node:
            shares = np.exp(logits[edge, :5]) / np.exp(logits[edge, :5]).sum()
            np.testing.assert_allclose(gates[edge], shares * np.exp(logits[edge, 5]) / total, rtol=1e-5)


def test_the_edge_weights_decide_which_inputs_a_node_keeps():
    space = darts(nodes=2, operations=("skip_connect", "sep_conv_3x3"))
    logits = np.zeros((10, 4))
    logits[2:5, 2] = [1.0, 2.0, 3.0]  # node 3 is the surer of its convolutions the later the input
    logits[2:5, 3] = [5.0, 0.0, 4.0]  # and its edges say another order
    row = space.relaxation.discretise(weighted(space.relaxation, jnp.asarray(logits)))
    found = space.decode(row)
    assert (found["normal_3_a_input"], found["normal_3_b_input"]) == (0, 2)


def test_operations_have_the_weights_of_a_quarter_of_the_channels():
    space, width = darts(), 16
    c = width // 4
    weights, _ = jax.eval_shape(mixed_supernet(space, Macro(width, 1, (8, 8, 3), 10), part=4).init, jax.random.key(0))
    inside = {name: np.prod(w["kernel"].shape) for name, w in weights.items() if "_edges" in name and "kernel" in w}
    reduction = 2 * c  # a net of one cell is a reduction cell, twice as wide
    separable = sum(2 * (k * k * reduction + reduction**2) for k in (3, 5))
    dilated = sum(k * k * reduction + reduction**2 for k in (3, 5))
    assert sum(inside.values()) == 14 * (separable + dilated) + 8 * reduction**2  # 8 edges halve: their skips convolve


RECIPE = Recipe(epochs=1, batch=8)


def two_operations(net, macro):
    x = net.conv(net.input, macro.width, 3, name="stem")
    return classifier(net, net.choice("edge", {"skip": lambda x: x, "conv": lambda x: conv_bn(net, x, 2)}, x), 10)


def test_logits_and_their_momentum_stand_still_in_the_warm_up():
    space = SearchSpace("two", (Decision("edge", ("skip", "conv")),), two_operations, Macro(4, 1, (8, 8, 1), 10))
    method = pc_darts(space, macro=space.macro, recipe=RECIPE, steps=10, warmup=0.3, part=2)
    batch = Batch(jax.random.normal(jax.random.key(1), (8, 8, 8, 1)), jnp.arange(8))
    before = jax.jit(method.init)(jax.random.key(0))
    step = jax.jit(method.step)
    for progress, moves in ((0.0, False), (0.29, False), (0.3, True)):
        after, metrics = step(before, batch, batch, jax.random.key(2), jnp.float32(progress))
        assert (np.asarray(after.own.logits) != np.asarray(before.own.logits)).any() == moves
        steps = [int(leaf) for leaf in jax.tree.leaves(after.own.logit_moments) if leaf.dtype == jnp.int32]
        assert steps == [int(moves)]
        assert np.isfinite(float(metrics["valid_loss"]))
        kernels = [w["kernel"] for w in (before.own.weights["stem"], after.own.weights["stem"])]
        assert (np.asarray(kernels[0]) != np.asarray(kernels[1])).any()


def test_what_cannot_be_partial_is_refused_in_one_line():
    space, macro = nasbench201(), Macro(6, 1, (8, 8, 1), 10)
    make = functools.partial(pc_darts, recipe=RECIPE, steps=10)
    with pytest.raises(BadInput, match="6 channels at 'edge_0_1' cannot be cut into 4 parts"):
        make(space, macro=macro)
    with pytest.raises(BadInput, match="part is 0"):
        make(space, macro=macro, part=0)
    with pytest.raises(BadInput, match="warmup is 1"):
        make(space, macro=macro, warmup=1)
    mobile = SPACES["fbnet"]()
    with pytest.raises(BadInput, match="takes no partial channels"):
        make(mobile, macro=mobile.macro)
    net = mixed_supernet(space, Macro(4, 1, (8, 8, 1), 10), part=2)
    with pytest.raises(BadInput, match="fit no network of the space"):
        net.extract({}, {}, np.zeros(6, int))
