"""Supernets of differentiable search: what every relaxed space promises. A new one is a row in CASES."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nas.errors import BadInput
from nas.mixed import Hard, mixed_supernet
from nas.space import Decision, Macro, SearchSpace
from search_spaces import SPACES, darts, nasbench201, nasnet, nats_size
from search_spaces.ops import classifier, relu_conv_bn

OPERATIONS = ("avg_pool_3x3", "skip_connect", "sep_conv_3x3")


def two_layers(net, macro):
    """A plain space: two choices, of which one operation gives nothing."""
    x = net.batch_norm(net.conv(net.input, macro.width, 3))
    for i in range(2):
        branches = {
            "none": lambda x=x: net.zeros(net.shape(x)),
            "pool": lambda x=x: net.avg_pool(x),
            "conv": lambda x=x: relu_conv_bn(net, x, macro.width),
        }
        x = net.choice(f"layer_{i}", branches)
    return classifier(net, x, macro.classes)


MACRO = Macro(4, 1, (8, 8, 1), 10)
LAYERS = tuple(Decision(f"layer_{i}", ("none", "pool", "conv")) for i in range(2))
CASES = {
    "plain": (SearchSpace(name="plain", decisions=LAYERS, network=two_layers, macro=MACRO), MACRO),
    "nasbench201": (nasbench201(), Macro(4, 1, (8, 8, 1), 10)),
    "darts": (darts(nodes=2, operations=OPERATIONS), Macro(4, 2, (8, 8, 1), 10)),
    "fbnet": (SPACES["fbnet"](), None),
    "darts_rnn": (SPACES["darts_rnn"](nodes=3), None),
}


@functools.cache
def case(name):
    space, macro = CASES[name]
    macro = macro or Macro(space.macro.width, 1, (32, 32, 3), 10)
    net = mixed_supernet(space, macro)
    weights, stats = jax.jit(net.init)(jax.random.key(0))
    # as if trained: statistics that differ from layer to layer, so that a swap of two would show
    leaves, tree = jax.tree.flatten(stats)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    stats = jax.tree.unflatten(
        tree, [jax.random.uniform(k, a.shape, minval=0.5) for k, a in zip(keys, leaves, strict=True)]
    )
    x = jax.random.normal(jax.random.key(2), (4, *macro.input))
    return space, macro, net, weights, stats, x


SMALL = ["nasbench201", "darts"]  # the others are walked through, not compiled


@pytest.mark.parametrize("name", CASES)
def test_gates_of_a_row_say_the_row(name):
    space = CASES[name][0]
    relaxation = space.relaxation
    rows = np.asarray(space.sample(jax.random.key(3), 20))
    for row in rows:
        gates = relaxation.gates(row)
        assert gates.shape == relaxation.allowed.shape
        assert not np.asarray(gates)[~relaxation.allowed].any()
        again = relaxation.discretise(gates)
        np.testing.assert_array_equal(space.key(again), space.key(row))
        assert bool(space.valid(again[None])[0])


@pytest.mark.parametrize("name", CASES)
def test_any_gates_say_an_allowed_row(name):
    space = CASES[name][0]
    relaxation = space.relaxation
    gates = jax.random.normal(jax.random.key(4), (50, *relaxation.allowed.shape))
    assert np.asarray(space.valid(jax.vmap(relaxation.discretise)(gates))).all()


def test_darts_keeps_the_two_strongest_edges_of_a_node_whatever_none_says():
    space = darts(nodes=2, operations=("skip_connect", "sep_conv_3x3"))
    relaxation = space.relaxation
    assert relaxation.edges[:5] == tuple(f"normal_{n}_from_{s}_op" for n, s in ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2)))
    assert relaxation.options[0] == ("none", "skip_connect", "sep_conv_3x3")
    gates = np.full((10, 3), 0.1)
    gates[:, 0] = 0.9  # none is never taken
    gates[2], gates[3], gates[4] = [0.5, 0.3, 0.2], [0.9, 0.05, 0.06], [0.2, 0.1, 0.7]
    found = space.decode(relaxation.discretise(jnp.asarray(gates)))
    assert (found["normal_3_a_input"], found["normal_3_a_op"]) == (0, "skip_connect")
    assert (found["normal_3_b_input"], found["normal_3_b_op"]) == (2, "sep_conv_3x3")


@pytest.mark.parametrize("name", SMALL)
def test_a_row_gives_what_its_own_flax_network_gives_with_the_same_weights(name):
    space, macro, net, weights, stats, x = case(name)
    apply = jax.jit(lambda weights, stats, row: net.apply(weights, stats, x, row, train=False)[0])
    for row in np.asarray(space.sample(jax.random.key(5), 2)):
        own = space.build(row, macro, rngs=nnx.Rngs(0)).load(*net.extract(weights, stats, row))
        own.eval()
        np.testing.assert_allclose(apply(weights, stats, row), own(x), atol=1e-4, rtol=1e-4)


def test_both_pairs_of_a_node_may_read_the_same_value():
    space, macro = nasnet(nodes=1, operations=("skip_connect", "conv_1x1")), Macro(4, 1, (8, 8, 1), 10)
    net = mixed_supernet(space, macro)
    weights, stats = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(2), (4, *macro.input))
    apply = jax.jit(lambda row: net.apply(weights, stats, x, row, train=False)[0])
    for second in (0, 1):
        row = np.asarray([0, 1, 0, second] * 2)
        own = space.build(row, macro, rngs=nnx.Rngs(0)).load(*net.extract(weights, stats, row))
        own.eval()
        np.testing.assert_allclose(apply(row), own(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["plain", "darts"])
def test_one_operation_on_each_edge_costs_a_switch_and_gives_what_one_hot_gates_give(name):
    space, _, net, weights, stats, x = case(name)
    relaxation = space.relaxation
    logits = jnp.where(relaxation.allowed, jax.random.normal(jax.random.key(9), relaxation.allowed.shape), -jnp.inf)
    index = logits.argmax(-1)
    gates = jax.nn.one_hot(index, logits.shape[1])

    def loss(weights, gates, hard):
        out, moved, _ = net.apply(weights, stats, x, Hard(index, gates) if hard else gates, train=True)
        return jnp.square(out).mean(), moved

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    (soft, soft_moved), (soft_weights, soft_gates) = run(weights, gates, False)
    (hard, hard_moved), (hard_weights, hard_gates) = run(weights, gates, True)
    np.testing.assert_allclose(hard, soft, rtol=1e-4)
    close = functools.partial(np.testing.assert_allclose, atol=2e-4, rtol=2e-3)
    jax.tree.map(close, hard_weights, soft_weights)
    taken = gates > 0
    close(np.asarray(hard_gates)[taken], np.asarray(soft_gates)[taken])
    assert not np.asarray(hard_gates)[~taken].any()
    assert np.abs(np.asarray(soft_gates)[taken]).max() > 0
    assert set(hard_moved) == set(soft_moved) == set(stats)


@pytest.mark.parametrize("name", ["plain", "darts"])
def test_without_any_operation_every_image_gets_the_same_logits(name):
    space, _, net, weights, stats, x = case(name)
    relaxation = space.relaxation
    none = jnp.zeros(relaxation.allowed.shape)
    out = jax.jit(lambda weights, gates: net.apply(weights, stats, x, gates, train=False)[0])(weights, none)
    np.testing.assert_allclose(out, np.broadcast_to(out[:1], out.shape), atol=1e-5)


def test_spaces_whose_choices_are_no_operations_are_refused():
    with pytest.raises(BadInput, match="no choice between operations"):
        mixed_supernet(nats_size(), Macro(8, 1, (8, 8, 1), 10))
