"""What retraining a network of cells adds to it: drop path and an auxiliary head. Evaluation knows neither."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from nas.builder import LayerBuilder
from nas.errors import BadInput
from nas.layers import Layer
from nas.network import init_layers, run_layer, run_layers
from nas.recipe import Recipe
from nas.supernet import Supernet, network_supernet

WINDOW = 5  # pixels, of the head's mean pool
HEAD = (128, 768)  # channels, as in NASNet and DARTS


def cell_network(layers: tuple[Layer, ...], recipe: Recipe) -> Supernet:
    """`nas.supernet.network_supernet`, whose `training` drops paths and has an auxiliary head.

    Both as in Liu et al., "DARTS", ICLR 2019, section 3.2 and its code, after Zoph et al., CVPR 2018.

    - Drop path: in each image, each operation on an edge gives nothing with probability ``recipe.drop_path * progress``
      and else its value over what is kept. Identities stay (Larsson et al., "FractalNet", ICLR 2017); so does an
      operation that is a node's only one. The code counts progress in epochs, we in steps.
    - Auxiliary head: a second classifier behind cell 2n/3 of n, whose loss is added `recipe.auxiliary` times.

    Args:
        layers: of one network.
        recipe: `drop_path` and `auxiliary` are read.

    Raises:
        BadInput: a network without such cells, or too small an image for the head.
    """
    plain = network_supernet(layers)
    dropped = operations_of_sums(layers) if recipe.drop_path else {}
    behind = head_place(layers) if recipe.auxiliary else -1
    head = auxiliary_head(layers[behind], layers[-1].output_shape[-1]) if recipe.auxiliary else ()

    def init(key, row=None):
        weights, stats = plain.init(key)
        own_weights, own_stats = init_layers(head, jax.random.fold_in(key, 1))
        return weights | own_weights, stats | own_stats

    def training(weights, stats, x, choice=None, *, key, progress):
        moved, keep = dict(stats), 1 - recipe.drop_path * progress

        def run(layer, ins):
            out, new = run_layer(layer, weights.get(layer.name, {}), stats.get(layer.name), ins, True)
            moved.update({} if new is None else {layer.name: new})
            return out

        def run_and_drop(layer, ins):
            for place, number in dropped.get(layer.name, {}).items():
                ins[place] = drop_path(jax.random.fold_in(key, number), ins[place], keep)
            outs[layer.name] = run(layer, ins)
            return outs[layer.name]

        outs: dict[str, jax.Array] = {}
        own = run_layers(layers, x, run_and_drop)
        if not head:
            return (own,), moved
        return (own, run_layers(head, ends(jax.nn.relu(outs[layers[behind].name])), run)), moved

    return plain._replace(init=init, training=training)


def drop_path(key: jax.Array, x: jax.Array, keep: jax.Array) -> jax.Array:
    """float[B, H, W, C]: each image with probability `keep`, over it, and else zeros."""
    kept = jax.random.bernoulli(key, keep, (len(x), 1, 1, 1))
    return jnp.where(kept, x / keep.astype(x.dtype), 0)


def operations_of_sums(layers: tuple[Layer, ...]) -> dict[str, dict[int, int]]:
    """Sum -> {place of a term that an operation on an edge gives: its number among all such terms}.

    Raises:
        BadInput: there is none.
    """
    found: dict[str, dict[int, int]] = {}
    for layer in layers:
        if layer.op == "add":
            # an operation on an edge is a block called op; an identity has no layers
            terms = [at for at, i in enumerate(layer.inputs) if layers[i].scope.endswith(".op")]
            count = sum(map(len, found.values()))
            found |= {layer.name: {at: count + n for n, at in enumerate(terms)}} if terms else {}
    if not found:
        raise BadInput(f"recipe: drop_path needs {CELLS}")
    return found


CELLS = "a network of cells, such as those of darts, nasnet, amoebanet and nasbench201; leave it at 0 here"


def head_place(layers: tuple[Layer, ...]) -> int:
    """The last layer of cell 2n/3 of n cells.

    Raises:
        BadInput: there are no cells.
    """
    cells = [int(x.name.split(".")[1]) if x.name.startswith("cells.") else -1 for x in layers]
    if max(cells) < 0:
        raise BadInput(f"recipe: auxiliary needs {CELLS}")
    return max(at for at, cell in enumerate(cells) if cell == 2 * (max(cells) + 1) // 3)


def auxiliary_head(behind: Layer, classes: int) -> tuple[Layer, ...]:
    """The head's layers, behind ReLU and pool: 1x1 convolution to 128, 2x2 to 768, each with batch norm and ReLU.

    Raises:
        BadInput: less than 2x2 pixels are left for it.
    """
    height, width, channels = behind.output_shape
    if min(height, width) < 2:
        raise BadInput(f"recipe: auxiliary needs 2x2 pixels at '{behind.name}', not {height}x{width}; leave it at 0")
    net = LayerBuilder((2, 2, channels), (), ())
    x = net.input
    with net.scope("auxiliary"):
        for i, (features, kernel) in enumerate(zip(HEAD, (1, 2), strict=True), 1):
            with net.scope(f"{i}"):
                x = net.activation(net.batch_norm(net.conv(x, features, kernel)))
        return net.finish(net.linear(net.global_avg_pool(x), classes))


def ends(x: jax.Array) -> jax.Array:
    """float[B, H, W, C] -> float[B, 2, 2, C]: means of the four 5x5 corners.

    On 8x8 and 7x7 that is the papers' mean pool of window 5 and stride 3 (CIFAR) and 2 (ImageNet), without padding.
    """
    rows, columns = (jnp.asarray(_windows(size), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)


@functools.cache
def _windows(size: int) -> np.ndarray:
    window = min(WINDOW, size - 1)
    first = np.arange(size) < window
    return np.stack([first, first[::-1]]) / window
