"""A step of the elastic supernet over sampled sub-networks, against a compiled step of each of them alone, in one run.

Contenders take turns. One is the supernet's program, which slices; one the same with all channels computed and those
outside of the ratio masked; one the sum of the sub-networks' own compiled steps. All have the same images, rows, loss
and gradients; the ratio is that of medians over the rounds, by seconds and by CPU time, which others on the machine
change little. Run: ``python -m experiments.bench_elastic [--space ofa_mbv3_small] [--networks 4] [--rounds 15]``.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nas.elastic import elastic_supernet
from nas.masked import masked_supernet
from nas.network import apply_layers
from search_spaces import SPACES


def main() -> None:
    """Prints a line a contender."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--space", default="ofa_mbv3_small")
    made.add_argument("--set", type=json.loads, default={"width": 0.5}, help="arguments of the space, JSON")
    made.add_argument("--networks", type=int, default=4)
    made.add_argument("--batch", type=int, default=64)
    made.add_argument("--rounds", type=int, default=15)
    o = made.parse_args()
    space = SPACES[o.space](**o.set)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(o.batch, *space.macro.input)).astype(np.float32)
    y = rng.integers(0, space.macro.classes, o.batch)
    rows = np.asarray(space.sample(jax.random.key(0), o.networks))

    def gradient(apply, weights):
        def loss(weights):
            out, stats = apply(weights)
            return optax.softmax_cross_entropy_with_integer_labels(out, y).mean(), stats

        return jax.grad(loss, has_aux=True)(weights)[0]

    def over_rows(network):
        def step(weights, stats, rows):
            def one(total, row):
                own = gradient(lambda w: network.apply(w, stats, x, row, train=True)[:2], weights)
                return jax.tree.map(jnp.add, total, own), None

            return jax.lax.scan(one, jax.tree.map(jnp.zeros_like, weights), rows)[0]

        return step

    def alone(layers):
        return lambda weights, stats: gradient(lambda w: apply_layers(layers, w, stats, x, train=True), weights)

    elastic = elastic_supernet(space, space.macro)
    weights, stats = elastic.init(jax.random.key(0))
    contenders = {
        "supernet, slices": [(over_rows(elastic), (weights, stats, rows))],
        "supernet, masks": [(over_rows(masked_supernet(space, space.macro)), (weights, stats, rows))],
        "own programs": [(alone(space.layers(row)), elastic.extract(weights, stats, row)) for row in rows],
    }
    programs, times = {}, {}
    for name, steps in contenders.items():
        wall, cpu = time.perf_counter(), time.process_time()
        programs[name] = [(jax.jit(step).lower(*given).compile(), given) for step, given in steps]
        spent = f"{time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} CPU s"
        print(f"{name:18} {len(steps)} programs compiled in {spent}", flush=True)
    for _ in range(o.rounds):
        for name, compiled in programs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready([step(*given) for step, given in compiled])
            times.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {name: np.median(found, axis=0) for name, found in times.items()}
    for name, (wall, cpu) in medians.items():
        ratio = medians[name] / medians["own programs"]
        print(f"{name:18} {wall * 1e3:8.1f} ms {cpu * 1e3:8.1f} CPU ms; ratio {ratio[0]:.2f}, by CPU {ratio[1]:.2f}")


if __name__ == "__main__":
    main()
