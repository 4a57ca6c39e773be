"""Training one recurrent network: its state carried over the text, and dropout with one mask for a whole sequence."""

import jax
import jax.numpy as jnp

from nas.errors import BadInput
from nas.layers import Layer
from nas.network import init_layers, own_weights, run_layer
from nas.recipe import Recipe
from nas.recurrent import loop_of, run_tokens
from nas.supernet import Supernet


def recurrent_network(layers: tuple[Layer, ...], recipe: Recipe) -> Supernet:
    """One resolved network in the supernet's form, its `choice` ignored, trained as Liu et al., "DARTS", ICLR 2019.

    Dropout is variational: what is dropped is drawn once for each sequence of a batch and stays for all its tokens
    (Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks", NIPS 2016).

    - ``dropout_word``: whole tokens of the vocabulary, for the batch at hand (Merity, Keskar and Socher, "Regularizing
      and Optimizing LSTM Language Models", ICLR 2018); the scores are read from the whole table.
    - ``dropout_input``: features of the embedded tokens. The paper's code drops them twice, in front of the cell and in
      it; the product of what is kept is this one.
    - ``dropout_hidden``: features of every state that a matrix of the cell reads, one mask for all of them.
    - ``dropout_output``: features of the states that scores are read from.

    Where we differ from the paper's code: sequences are all of one length and follow one another from the text's start
    in every epoch, where it draws lengths; there is no slowness penalty (1e-3 there) and no averaging of weights
    (its optimiser becomes averaged SGD once the validation loss stalls).

    Args:
        layers: with a state in them.
        recipe: the dropouts are read.

    Raises:
        BadInput: drop path or an auxiliary head, which are of networks of images.
    """
    for name in ("drop_path", "auxiliary"):
        if getattr(recipe, name):
            raise BadInput(f"recipe: {name} is for networks of images; leave it at 0")
    found = loop_of(layers)
    assert found is not None
    first, last = found
    inside = range(first, last + 1)

    def apply(weights, stats, x, choice=None, *, carry=None, train, key=None):
        masks = _masks(layers, recipe, key, len(x)) if train and key is not None else {}

        def run(layer, ins):
            own, at = own_weights(layer, weights), places[layer.name]
            if layer.op == "embedding" and "word" in masks:
                own = {"kernel": own["kernel"] * masks["word"].astype(own["kernel"].dtype)}
            if layer.op == "decode":
                ins = [_dropped(ins[0], masks, "output")]
            elif at in inside and layer.op in ("linear", "concat"):
                # a matrix reads states where the concatenation does not bring them to it already
                ins = [_dropped(x, masks, "hidden") if hidden[at, i] else x for i, x in enumerate(ins)]
            out = run_layer(layer, own, None, ins, train)[0]
            return _dropped(out, masks, "input") if layer.op == "embedding" else out

        out, carry = run_tokens(layers, x, run, carry)
        return out, stats, carry

    places = {layer.name: i for i, layer in enumerate(layers)}
    # whether an input of a layer is a state, not yet dropped from
    hidden = {
        (at, i): j in inside and layers[j].op != "concat" for at in inside for i, j in enumerate(layers[at].inputs)
    }
    width = layers[first].output_shape[-1]
    return Supernet(
        lambda key, row=None: init_layers(layers, key),
        apply,
        lambda weights, stats, row=None: (weights, stats),
        layers,
        start=lambda size: jnp.zeros((size, width)),
    )


def _masks(layers, recipe, key, size):
    """Zeros, and the inverse of what is kept; none where nothing is dropped."""
    table = next(layer for layer in layers if layer.op == "embedding")
    width = next(layer for layer in layers if layer.op == "state").output_shape[-1]
    shapes = {
        "word": (recipe.dropout_word, (table.attributes["vocabulary"], 1)),
        "input": (recipe.dropout_input, (size, 1, table.attributes["features"])),
        "hidden": (recipe.dropout_hidden, (size, width)),
        "output": (recipe.dropout_output, (size, 1, width)),
    }
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    return {
        name: jax.random.bernoulli(keys[name], 1 - rate, shape) / (1 - rate)
        for name, (rate, shape) in shapes.items()
        if rate
    }


def _dropped(x, masks, name):
    return x * masks[name].astype(x.dtype) if name in masks else x
