"""Weight-sharing methods: what every one promises. A new one is a row in METHODS."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.builder import LayerBuilder
from nas.cost import Cost, Factor, Stamp
from nas.data import load, on_device
from nas.errors import BadInput
from nas.one_shot import train_shared
from nas.recipe import Recipe
from nas.sharing import shared_accuracy
from nas.space import Decision, Macro, SearchSpace
from nas.train import CLASSIFICATION
from search_spaces import darts as darts_space
from strategies import ONE_SHOT

# settings of the short training here
METHODS: dict[str, dict] = {
    "darts": {},
    "gdas": {},
    "snas": {},
    "drnas": {},
    "pc_darts": {"part": 1},
    "fbnet": {},
    "proxylessnas": {},
    "enas": {"policy_rate": 0.03},
    "single_path": {},
}
# once_for_all trains a space of its own kind, where kernels are slices of one another: tests/strategies has its tests
ELSEWHERE = {"once_for_all"}
OPERATIONS = ("none", "conv_3x3", "conv_1x1")
BEST = 1  # pooled over the image, a 1x1 convolution tells how dark it is and no more


def network(net: LayerBuilder, macro: Macro):
    def conv(kernel):
        return net.batch_norm(net.conv(net.input, macro.width, kernel, stride=2))

    branches = {
        "none": lambda: net.zeros((4, 4, macro.width)),
        "conv_3x3": lambda: conv(3),
        "conv_1x1": lambda: conv(1),
    }
    x = net.activation(net.choice("edge", branches))
    return net.linear(net.global_avg_pool(x), macro.classes)


SPACE = SearchSpace("toy", (Decision("edge", OPERATIONS),), network, Macro(16, 1, (8, 8, 1), 10))
RECIPE = Recipe(epochs=4, batch=32, learning_rate=0.2)
STEPS = 4 * 20


def latency(times, function=None):
    stamp = Stamp("latency", "ms", "toy", "toy", 1, "float32", {}, "made up")
    return Cost(stamp, 1.0, (Factor((0,), np.asarray(times)),), function, SPACE.fingerprint)


def make(name, space=SPACE, **settings):
    factory = ONE_SHOT[name]
    if "costs" in inspect.signature(factory).parameters:
        settings = {"costs": {"latency": latency([0.1, 0.1, 0.1])}, **settings}
    return factory(space, macro=space.macro, recipe=RECIPE, steps=STEPS, **METHODS[name], **settings)


@functools.cache
def splits():
    data = load("digits", validation_fraction=0.5, limit=640)
    return tuple(on_device(getattr(data, s), data.mean, data.std) for s in ("train", "validation"))


@functools.cache
def trained(name):
    method = make(name)
    return method, train_shared(method, splits(), RECIPE, seed=3)


def test_every_method_has_a_row():
    assert set(METHODS) | ELSEWHERE == set(ONE_SHOT)


@pytest.mark.parametrize("name", METHODS)
def test_killed_and_resumed_it_ends_with_the_same_arrays(name, tmp_path):
    method, undisturbed = trained(name)
    assert undisturbed.finished

    def stop(done, metrics):
        if done > 25:
            raise KeyboardInterrupt

    path = tmp_path / "seed.safetensors"
    assert not train_shared(method, splits(), RECIPE, seed=3, checkpoint=path, observer=stop).finished
    again = train_shared(method, splits(), RECIPE, seed=3, checkpoint=path)
    jax.tree.map(np.testing.assert_array_equal, again.state, undisturbed.state)
    assert [e["metrics"] for e in again.record] == [e["metrics"] for e in undisturbed.record]


@pytest.mark.parametrize("name", METHODS)
def test_it_finds_the_operation_that_is_clearly_better(name):
    method, done = trained(name)
    if method.derive is None:
        measure = shared_accuracy(method, CLASSIFICATION, *splits(), RECIPE)
        weights = method.shared(done.state)
        rows = [[int(np.argmax([measure(*weights, jnp.asarray([k]))["accuracy"] for k in range(3)]))]]
    else:
        rows = np.asarray(method.derive(done.state, splits()[1], jax.random.key(0)))
    assert bool(jnp.all(SPACE.valid(jnp.asarray(rows))))
    assert list(rows[0]) == [BEST]


@pytest.mark.parametrize("name", METHODS)
def test_its_gates_are_shares_of_what_an_edge_has(name):
    method, done = trained(name)
    if method.gates is not None:
        gates = np.asarray(method.gates(done.state))
        assert gates.shape == SPACE.relaxation.allowed.shape
        np.testing.assert_allclose(gates.sum(-1), 1, rtol=1e-5)
        assert gates.argmax() == BEST


COSTED = [name for name in METHODS if "costs" in inspect.signature(ONE_SHOT[name]).parameters]


@pytest.mark.parametrize("name", COSTED)
def test_an_operation_that_costs_too_much_is_not_taken(name):
    setting = {"fbnet": "beta", "proxylessnas": "weight"}[name]
    method = make(name, costs={"latency": latency([0.0, 50.0, 0.1])}, **{setting: 5.0})
    done = train_shared(method, splits(), RECIPE, seed=3)
    assert np.asarray(method.derive(done.state, splits()[1], jax.random.key(0)))[0] != BEST


@pytest.mark.parametrize("name", COSTED)
def test_costs_that_are_no_gradient_are_refused_in_one_line(name):
    with pytest.raises(BadInput, match="no cost 'energy'; there are latency, params, macs"):
        make(name, cost="energy")
    with pytest.raises(BadInput, match="is no sum"):
        make(name, costs={"latency": latency([0, 0, 0], lambda rows: rows.sum(-1))})
    with pytest.raises(BadInput, match="'darts' has them on edges"):
        make(name, space=darts_space(nodes=1), cost="macs")
