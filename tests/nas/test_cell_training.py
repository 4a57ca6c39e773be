"""Drop path and auxiliary head against what they are in words, and DARTS's figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nas
from nas import config
from nas.builder import LayerBuilder
from nas.cell_training import auxiliary_head, cell_network, ends, head_place
from nas.errors import BadInput
from nas.evaluate import Scratch
from nas.layers import counts
from nas.model import train_model
from nas.network import apply_layers
from nas.recipe import Recipe
from nas.sharing import Sharing
from nas.space import Macro
from nas.train import make_program
from search_spaces import SPACES, darts, nasbench201
from search_spaces.genotype import to_row
from search_spaces.published import DARTS_V2
from strategies import ONE_SHOT

SPACE, MACRO = darts(nodes=1, operations=("skip_connect", "sep_conv_3x3")), Macro(4, 3, (8, 8, 1), 10)
ROW = np.asarray([0, 0, 1, 1] * 2, np.int32)  # each node: the cell before the last as it is, and a convolution


def test_the_head_has_the_parameters_of_dartss():
    layers = darts().layers(to_row(DARTS_V2, darts()), Macro(36, 20, (32, 32, 3), 10))
    behind = layers[head_place(layers)]
    assert (behind.name, behind.output_shape) == ("cells.13.concat", (8, 8, 4 * 4 * 36))
    # kernels 576 -> 128 (1x1) and 128 -> 768 (2x2), scale and offset of each, and a dense layer with bias
    head = 576 * 128 + 2 * 128 + 2 * 2 * 128 * 768 + 2 * 768 + 768 * 10 + 10
    assert counts(auxiliary_head(behind, 10)).params == head == 476_426
    weights, _ = jax.eval_shape(cell_network(layers, Recipe(auxiliary=0.4)).init, jax.random.key(0))
    assert sum(a.size for a in jax.tree.leaves(weights)) == 3_349_342 + head


@pytest.mark.parametrize("size, stride", [(8, 3), (7, 2)])  # CIFAR's and ImageNet's
def test_the_heads_pool_is_the_papers(size, stride):
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    at = (0, stride)
    wanted = [[x[:, i : i + 5, j : j + 5].mean((1, 2)) for j in at] for i in at]
    np.testing.assert_allclose(ends(jnp.asarray(x)), np.moveaxis(np.asarray(wanted), 2, 0), rtol=1e-4, atol=1e-6)


def sum_of_two():
    """x + 2x - the second as an operation on an edge - and what a plain sum outside of edges would add."""
    net = LayerBuilder((1, 1, 1), (), ())
    with net.scope("cells.0.edge"), net.block("twice", "op"):
        twice = net.add([net.input, net.input])
    return net.finish(net.add([net.input, twice], name="node"))


def test_an_operation_is_dropped_in_as_many_images_as_said_and_an_identity_never():
    network = cell_network(sum_of_two(), Recipe(drop_path=0.4))
    x = jnp.ones((20_000, 1, 1, 1))
    for progress, share in ((0.0, 0.0), (0.5, 0.2), (1.0, 0.4)):
        (out,), _ = network.training({}, {}, x, key=jax.random.key(0), progress=jnp.float32(progress))
        whole = 1 + 2 / (1 - share)
        found = np.asarray(out).ravel()
        np.testing.assert_allclose(found[found != 1], whole, rtol=1e-6)
        assert np.mean(found == 1) == pytest.approx(share, abs=0.015)
        assert found.mean() == pytest.approx(3, abs=0.05)  # as in evaluation, which drops nothing
    np.testing.assert_array_equal(network.apply({}, {}, x, train=False)[0], 3 * x)


def test_each_operation_of_a_cell_is_dropped_by_itself_and_none_at_the_start():
    layers = SPACE.layers(ROW, MACRO)
    network = cell_network(layers, Recipe(drop_path=0.5, auxiliary=0.4))
    weights, stats = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    run = jax.jit(lambda key, progress: network.training(weights, stats, x, key=key, progress=progress))
    plain, moved = apply_layers(layers, weights, stats, x, train=True)
    (own, head), own_moved = run(jax.random.key(2), jnp.float32(0))
    np.testing.assert_allclose(own, plain, rtol=1e-4, atol=1e-5)
    assert head.shape == own.shape
    for name in (layer.name for layer in layers if layer.name in moved):
        for which in ("mean", "var"):
            np.testing.assert_allclose(own_moved[name][which], moved[name][which], rtol=1e-4, atol=1e-6)
    (one, _), _ = run(jax.random.key(2), jnp.float32(1))
    (other, _), _ = run(jax.random.key(3), jnp.float32(1))
    assert (np.asarray(one) != np.asarray(other)).any() and (np.asarray(one) != np.asarray(own)).any()


def small_network():
    net = LayerBuilder((8, 8, 1), (), ())
    with net.scope("cells.0"):
        x = net.conv(net.input, 4, 3)
    return net.finish(net.linear(net.global_avg_pool(x), 10))


def test_the_heads_loss_joins_with_its_weight():
    recipe = Recipe(batch=64, learning_rate=0.1, momentum=0, weight_decay=0, gradient_clip=0, schedule="constant")
    digits = nas.load_data("digits", limit=64)
    split, moved = nas.data.on_device(digits.train, digits.mean, digits.std), {}
    for weight in (0.2, 0.4):
        own = recipe.replace(auxiliary=weight)
        program = make_program(cell_network(small_network(), own), own)
        state = program.init(jax.random.key(0), None)
        before = jax.tree.map(np.array, state.weights)
        after, loss = program.train(state, None, split, jnp.arange(64)[None], jax.random.key(1), np.int32(1))
        moved[weight] = jax.tree.map(lambda a, b: np.asarray(a) - b, after.weights, before), float(loss)
    (light, loss), (heavy, same) = moved.values()
    assert loss == same  # what is reported is the network's own
    # the head learns from its own loss alone, and the classifier from the network's
    for name in ("auxiliary.linear", "auxiliary.1.conv"):
        np.testing.assert_allclose(heavy[name]["kernel"], 2 * light[name]["kernel"], rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(heavy["linear"]["kernel"], light["linear"]["kernel"], atol=1e-6)
    assert np.abs(light["linear"]["kernel"]).max() > 1e-4
    # what is below both hears both
    assert np.abs(heavy["cells.0.conv"]["kernel"] - light["cells.0.conv"]["kernel"]).max() > 1e-5


def test_the_model_that_is_taken_away_has_no_head():
    found = config.Architecture(SPACE, ROW * (np.arange(8) % 2 == 0), MACRO, MACRO)
    recipe = Recipe(epochs=1, batch=64, auxiliary=0.4, drop_path=0.2)
    model, history = train_model(found, nas.load_data("digits", limit=64), recipe)
    weights, stats = model.network.weights()
    held = [name for part in (weights, stats) for name in part]
    assert held and not any("auxiliary" in name for name in held)
    assert np.isfinite(history[0]["train_loss"])
    assert model.config["recipe"]["auxiliary"] == 0.4


def test_what_has_no_cells_or_trains_many_networks_is_refused_in_one_line():
    mobile = SPACES["fbnet"]()
    layers = mobile.layers(np.zeros(mobile.length, int))
    for recipe in (Recipe(drop_path=0.2), Recipe(auxiliary=0.4)):
        name = "drop_path" if recipe.drop_path else "auxiliary"
        with pytest.raises(BadInput, match=f"recipe: {name} needs a network of cells"):
            cell_network(layers, recipe)
        with pytest.raises(BadInput, match=f"recipe: {name} is for training one network"):
            Scratch(nasbench201(), recipe=recipe)
        with pytest.raises(BadInput, match=f"recipe: {name} is for training one network"):
            Sharing(nasbench201(), ONE_SHOT["single_path"], recipe=recipe)
    with pytest.raises(BadInput, match=r"needs 2x2 pixels at 'cells\.2\.concat', not 1x1"):
        cell_network(SPACE.layers(ROW, Macro(4, 3, (4, 4, 1), 10)), Recipe(auxiliary=0.4))
    with pytest.raises(BadInput, match="drop_path is 1; it must be from 0 to below 1"):
        Recipe(drop_path=1)
