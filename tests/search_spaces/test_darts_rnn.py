"""The recurrent cells of DARTS: against the paper's counts, and against the cell written out in numpy."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nas.errors import BadInput
from nas.layers import counts
from nas.mixed import Hard, mixed_supernet
from nas.one_shot import Batch
from nas.recipe import Recipe
from nas.recurrent_training import recurrent_network
from nas.space import Macro
from search_spaces import darts, darts_rnn
from search_spaces.darts_rnn import _cell
from search_spaces.darts_rnn_supernet import supernet
from search_spaces.genotype import Recurrent, from_row, parse, space_of, to_row
from search_spaces.published import RECURRENT
from strategies import ONE_SHOT

NODES, WIDTH, TOKENS, WORDS, BATCH = 3, 5, 7, 11, 4
MACRO = Macro(WIDTH, 1, (TOKENS,), WORDS)
# a cell that reads node 0 twice, and has each kind of activation but one
ROW = np.asarray([0, 0, 1, 1, 0, 3])
ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "identity": lambda x: x,
}


@functools.cache
def case(normalise=False):
    """(space, supernet, weights, stats, tokens)."""
    space = darts_rnn(nodes=NODES)
    cell = _cell(space, MACRO, NODES)
    net = mixed_supernet(space, MACRO) if normalise else supernet(cell, normalise=False)
    weights, stats = net.init(jax.random.key(0))
    weights = jax.tree.map(lambda a: 2 * a + 0.1, weights)  # biases too, so that a lost one shows
    x = jax.random.randint(jax.random.key(1), (BATCH, TOKENS), 0, WORDS)
    return space, net, weights, stats, x


def by_hand(row, weights, x, h=None):
    """The paper's equations, token after token, in float64: (scores, last state)."""
    take = lambda name: np.asarray(weights[name]["kernel"], np.float64)  # noqa: E731
    table = take("embedding")
    h = np.zeros((len(x), table.shape[1])) if h is None else h
    space, out = darts_rnn(nodes=len(row) // 2), []
    choices = space.decode(row)
    for t in range(x.shape[1]):
        c, z = np.split(np.concatenate([table[np.asarray(x)[:, t]], h], 1) @ take("cell.node_0.linear"), 2, 1)
        states = [h + ACTIVATIONS["sigmoid"](c) * (np.tanh(z) - h)]
        for i in range(1, len(row) // 2 + 1):
            s = states[choices[f"node_{i}_input"]]
            c, z = np.split(s @ take(f"cell.node_{i}.linear"), 2, 1)
            states.append(s + ACTIVATIONS["sigmoid"](c) * (ACTIVATIONS[choices[f"node_{i}_op"]](z) - s))
        h = np.mean(states[1:], 0)
        out.append(h @ table.T + np.asarray(weights["decode"]["bias"]))
    return np.stack(out, 1), h


# ---- what is published -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("width", "words", "millions"), [(850, 10_000, 23), (700, 33_278, 33)])
@pytest.mark.parametrize("name", RECURRENT)
def test_published_cells_have_the_papers_parameter_counts(name, width, words, millions):
    """Penn Treebank and WikiText-2, tables 3 and 4 of the paper."""
    space = darts_rnn()
    found = counts(space.layers(to_row(RECURRENT[name], space), Macro(width, 1, (35,), words)))
    # table, its biases, the matrix of node 0, and eight others: all without biases
    assert found.params == words * width + words + (2 * width) ** 2 + 8 * width * 2 * width
    assert round(found.params / 1e6) == millions
    products = (2 * width) ** 2 + 8 * width * 2 * width + words * width
    assert found.macs == 35 * products, "of a sequence of 35"


@pytest.mark.parametrize("name", RECURRENT)
def test_genotypes_are_read_and_written(name):
    text = str(RECURRENT[name])
    genotype = parse(text.replace("[1, 2, 3, 4, 5, 6, 7, 8]", "range(1, 9)"))
    assert genotype == RECURRENT[name]
    space = space_of(genotype)
    assert space.fingerprint == darts_rnn().fingerprint
    assert from_row(to_row(genotype, space), space) == genotype


@pytest.mark.parametrize(
    ("genotype", "space", "says"),
    [
        (RECURRENT["DARTS_V1"]._replace(concat=(8,)), darts_rnn(), "takes the mean of all nodes"),
        (RECURRENT["DARTS_V1"], darts_rnn(nodes=4), "8 recurrent nodes"),
        (RECURRENT["DARTS_V1"], darts(), "not of this space, 'darts'"),
        (Recurrent((("gelu", 0),), (1,)), darts_rnn(nodes=1), "'node_1_op' is"),
        (Recurrent((("relu", 1),), (1,)), darts_rnn(nodes=1), "'node_1_input' is"),
    ],
)
def test_other_genotypes_are_refused_in_one_line(genotype, space, says):
    with pytest.raises(BadInput, match=says):
        to_row(genotype, space)


# ---- one network, written three times ----------------------------------------------------------------------------
def test_a_row_its_own_network_gates_and_the_equations_give_the_same_scores():
    space, net, weights, stats, x = case()
    wanted, last = by_hand(ROW, weights, x)
    out, _, carry = jax.jit(lambda w, row: net.apply(w, stats, x, row, train=False))(weights, jnp.asarray(ROW))
    np.testing.assert_allclose(out, wanted, atol=1e-4)
    np.testing.assert_allclose(carry, last, atol=1e-4)
    own = space.build(ROW, MACRO, rngs=nnx.Rngs(0)).load(*net.extract(weights, stats, ROW))
    np.testing.assert_allclose(own(x), wanted, atol=1e-4)
    gates = space.relaxation.gates(ROW)
    by_gates = jax.jit(lambda w, g: net.apply(w, stats, x, g, train=False)[0])
    np.testing.assert_allclose(by_gates(weights, gates), wanted, atol=1e-4)


def test_the_state_goes_on_where_the_text_does():
    space, net, weights, stats, x = case()
    whole, last = by_hand(ROW, weights, x)
    own = space.build(ROW, MACRO, rngs=nnx.Rngs(0)).load(*net.extract(weights, stats, ROW))
    for go_on in (own.go_on, lambda x, h: net.apply(weights, stats, x, ROW, carry=h, train=False)[::2]):
        first, state = go_on(x[:, :3], None)
        second, state = go_on(x[:, 3:], state)
        np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-4)
        np.testing.assert_allclose(state, last, atol=1e-4)


@pytest.mark.parametrize("train", [False, True])
def test_with_batch_norm_a_row_hard_gates_and_gates_of_ones_give_the_same(train):
    space, net, weights, stats, x = case(True)
    stats = jax.tree.map(lambda a: a + jax.random.uniform(jax.random.key(2), a.shape), stats)
    gates = space.relaxation.gates(ROW)
    index = gates.argmax(-1)
    run = jax.jit(lambda choice: net.apply(weights, stats, x, choice, train=train)[:2])
    wanted = run(gates)
    for choice in (jnp.asarray(ROW), Hard(index, gates)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), run(choice), wanted)
    if train:  # nodes have mean 0 and variance 1 in every batch, so states have mean 0
        state = net.apply(weights, stats, x, ROW, train=True)[2]
        np.testing.assert_allclose(state.mean(0), 0, atol=1e-5)
    else:
        moved = run(gates)[1]
        jax.tree.map(np.testing.assert_array_equal, moved, stats)


def test_gates_are_a_weighted_sum_and_none_gives_nothing():
    """One node reads one other, so its gates say how strong each activation is."""
    space = darts_rnn(nodes=1)
    macro = Macro(WIDTH, 1, (1,), WORDS)
    net = supernet(_cell(space, macro, 1), normalise=False)
    weights, stats = net.init(jax.random.key(3))
    x = jnp.arange(BATCH)[:, None]
    gates = jnp.asarray([[0.4, 0.3, 0.2, 0.1, 0.0]])
    _, _, state = net.apply(weights, stats, x, gates, train=False)
    each = [by_hand(np.asarray([0, k]), weights, np.asarray(x))[1] for k in range(4)]
    np.testing.assert_allclose(state, sum(g * s for g, s in zip([0.3, 0.2, 0.1, 0.0], each, strict=True)), atol=1e-5)


def test_gradients_of_gates_are_finite_differences():
    space, net, weights, stats, x = case(True)
    gates = jax.nn.softmax(jax.random.normal(jax.random.key(4), space.relaxation.allowed.shape))
    direction = jax.random.normal(jax.random.key(5), gates.shape)

    @jax.jit
    def loss(g):
        out = net.apply(weights, stats, x, g, train=True)[0]
        return jnp.square(jax.nn.log_softmax(out)).mean()

    slope, step = float((jax.grad(loss)(gates) * direction).sum()), 2e-3
    ahead, behind = (float(loss(gates + side * direction)) for side in (step, -step))
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=0.03)


def test_gates_keep_the_strongest_edge_of_a_node_whatever_none_says():
    space = darts_rnn(nodes=2)
    assert space.relaxation.edges == ("node_1_from_0_op", "node_2_from_0_op", "node_2_from_1_op")
    gates = jnp.asarray([[0.9, 0.02, 0.03, 0.04, 0.01], [0.1, 0.2, 0.3, 0.2, 0.2], [0.5, 0.0, 0.0, 0.1, 0.4]])
    found = space.decode(space.relaxation.discretise(gates))
    assert found == {"node_1_input": 0, "node_1_op": "sigmoid", "node_2_input": 1, "node_2_op": "identity"}


# ---- dropout -----------------------------------------------------------------------------------------------------
def own(**settings):
    space, _, weights, _, x = case()
    return recurrent_network(space.layers(ROW, MACRO), Recipe(**settings)), weights, x


def test_what_is_dropped_stays_dropped_for_a_whole_sequence():
    network, weights, x = own(dropout_output=0.5)
    plain = network.apply(weights, {}, x, train=False)[0]
    dropped = network.apply(weights, {}, x, train=True, key=jax.random.key(6))[0]
    table, bias = weights["embedding"]["kernel"], weights["decode"]["bias"]
    states, kept = ((out - bias) @ jnp.linalg.pinv(table.T) for out in (plain, dropped))
    ratio = np.asarray(kept / states)
    assert np.allclose(ratio, ratio[:, :1], atol=1e-2), "the same for every token"
    assert {0, 2} == set(ratio.round().ravel().astype(int)), "and what is kept is scaled"
    assert len(np.unique(ratio[:, 0].round(), axis=0)) > 1, "another one for another sequence"


@pytest.mark.parametrize("name", ["dropout_word", "dropout_input", "dropout_hidden"])
def test_each_dropout_changes_what_is_trained_and_nothing_else(name):
    network, weights, x = own(**{name: 0.5})
    plain, _, _ = network.apply(weights, {}, x, train=False)
    np.testing.assert_allclose(plain, by_hand(ROW, weights, x)[0], atol=1e-4)
    first, again, other = (network.apply(weights, {}, x, train=True, key=jax.random.key(k))[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01 and np.abs(first - plain).max() > 0.01


def test_states_are_dropped_in_front_of_matrices_and_not_on_the_highway():
    """With matrices of zeros every node is half of what it reads and half of an activation of 0."""
    network, weights, x = own(dropout_hidden=0.9)
    nothing = {name: jax.tree.map(jnp.zeros_like, w) if "linear" in name else w for name, w in weights.items()}
    state = jnp.ones((BATCH, WIDTH))
    _, _, dropped = network.apply(nothing, {}, x, carry=state, train=True, key=jax.random.key(0))
    np.testing.assert_allclose(dropped, by_hand(ROW, nothing, x, np.ones((BATCH, WIDTH)))[1], rtol=1e-5)


# ---- refused -----------------------------------------------------------------------------------------------------
def test_frames_that_are_none_are_refused_in_one_line():
    space = darts_rnn()
    with pytest.raises(BadInput, match="8x8x3 is of images"):
        space.layers(np.zeros(16, int), Macro(8, 1, (8, 8, 3), 10))
    with pytest.raises(BadInput, match="has one cell"):
        space.layers(np.zeros(16, int), Macro(8, 2, (5,), 10))
    with pytest.raises(BadInput, match="no channels to leave out; set part=1"):
        mixed_supernet(space, MACRO, part=2)
    with pytest.raises(BadInput, match="from 1 to 16"):
        darts_rnn(nodes=0)
    with pytest.raises(BadInput, match="drop_path is for networks of images"):
        own(drop_path=0.2)


# ---- every method on shared weights ------------------------------------------------------------------------------
SETTINGS = {"pc_darts": {"part": 1}, "fbnet": {"beta": 0}, "proxylessnas": {"weight": 0}}


@pytest.mark.parametrize("name", [name for name in ONE_SHOT if name != "once_for_all"])
def test_methods_on_shared_weights_take_a_step_on_a_text(name):
    """Traced, not compiled: shapes of everything a step computes."""
    space = darts_rnn(nodes=NODES)
    costs = {"costs": {}} if "costs" in inspect.signature(ONE_SHOT[name]).parameters else {}
    settings = dict(macro=MACRO, recipe=Recipe(epochs=2, batch=BATCH), steps=4, **costs, **SETTINGS.get(name, {}))
    method = ONE_SHOT[name](space, **settings)
    tokens = jax.ShapeDtypeStruct((BATCH, TOKENS), jnp.int32)
    batch, key = Batch(tokens, tokens), jax.random.key(0)
    state = jax.eval_shape(method.init, key)
    after, metrics = jax.eval_shape(method.step, state, batch, batch, key, jnp.float32(0))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert "loss" in metrics and all(value.shape == () for value in metrics.values())


def test_methods_that_need_slices_of_kernels_or_costs_are_refused_in_one_line():
    space = darts_rnn(nodes=NODES)
    common = dict(macro=MACRO, recipe=Recipe(epochs=2, batch=BATCH), steps=4)
    with pytest.raises(BadInput) as refused:
        ONE_SHOT["once_for_all"](space, **common)
    assert "\n" not in str(refused.value)
    with pytest.raises(BadInput, match="'darts_rnn' has them on edges"):
        ONE_SHOT["fbnet"](space, costs={}, cost="macs", **common)
