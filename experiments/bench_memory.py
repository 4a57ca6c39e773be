"""Estimated training memory beside XLA's own analysis: ``python -m experiments.bench_memory --networks 50``.

For each space, small random networks are compiled as `nas.model.train_model` runs them (one step of SGD, 16x16 images,
batch 32), without LLVM's optimisations, which do not change memory, and XLA's figure is its
``compiled.memory_analysis()``: arguments and temporary buffers, without the images.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from hw_models.memory import training_memory
from nas.cost import sample_rows
from nas.data import DeviceSplit
from nas.layers import Layer
from nas.recipe import Recipe
from nas.space import Macro
from nas.summary import spearman
from nas.supernet import network_supernet
from nas.train import make_program
from search_spaces import SPACES

MACROS = {"nasbench201": Macro(8, 1, (16, 16, 3), 10), "nats_size": Macro(8, 1, (16, 16, 3), 10)}
MACROS |= {name: Macro(4, 3, (16, 16, 3), 10) for name in ("darts", "nasnet", "amoebanet")}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def xla_memory(layers: tuple[Layer, ...], recipe: Recipe) -> int:
    """Bytes of a training step by XLA's analysis: state and temporary buffers, without the images."""
    program = make_program(network_supernet(layers), recipe)
    state = jax.eval_shape(program.init, jax.random.key(0), None)
    of = jax.ShapeDtypeStruct
    channels = layers[0].output_shape[-1:]
    images = of((recipe.batch, *layers[0].output_shape), jnp.uint8)
    split = DeviceSplit(images, of((recipe.batch,), jnp.int32), of(channels, jnp.float32), of(channels, jnp.float32))
    order, key = of((1, recipe.batch), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
    lowered = program.train.lower(state, None, split, order, key, of((), jnp.int32))  # type: ignore[attr-defined]
    found = lowered.compile(compiler_options=QUICK).memory_analysis()
    return found.temp_size_in_bytes + sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def main(spaces: list[str], networks: int, seed: int) -> None:
    """Prints a row for each space."""
    table = Table("space", "networks", "within 15 %", "worst", "Spearman", "XLA, MB", title="training memory")
    for name in spaces:
        space, recipe, begun = SPACES[name](), Recipe(batch=32), time.monotonic()
        pairs = []
        for at, row in enumerate(sample_rows(space, networks, seed)):
            layers = space.layers(row, MACROS[name])
            pairs.append((training_memory(layers, recipe).total, xla_memory(layers, recipe)))
            left = (time.monotonic() - begun) / (at + 1) * (networks - at - 1)
            print(
                f"{name} {at + 1}/{networks}: {pairs[-1][0] / pairs[-1][1]:.3f} of XLA's, {left:.0f} s left", flush=True
            )
        ours, xla = np.asarray(pairs, np.float64).T
        off = np.abs(ours / xla - 1)
        shown = f"{xla.min() / 1e6:.1f} to {xla.max() / 1e6:.1f}"
        table.add_row(
            name, f"{networks}", f"{(off <= 0.15).mean():.0%}", f"{off.max():.0%}", f"{spearman(ours, xla):.3f}", shown
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", nargs="+", choices=MACROS, default=list(MACROS))
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    main(given.spaces, given.networks, given.seed)
