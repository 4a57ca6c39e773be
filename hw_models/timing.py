"""How long a few layers take: one program each, sampled in rounds of shuffled order.

Inside XLA a block runs k times in a loop of one compiled program, each turn fed by the one before so that nothing can
be left out or moved. A call without a turn is taken off here, the turn of an empty loop by the reader of the samples.
"""

import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hw_models.blocks import Block
from nas.network import init_layers, run_layer

Program = Callable[[int], float]  # ms of one call with so many turns of a block
Samples = dict[str, list[list[float]]]  # name -> [ms of a turn, ms of a call without a turn] of each round
Report = Callable[[int, int, str], None]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
CALL_MS = 1.0  # of work in one timed call: many times the jitter of clock and dispatch
CALLS = 5  # in a sample
COMPILING = 20  # samples take about as long as compiling one program, for the time left


def fill(
    samples: Samples,
    blocks: Mapping[str, Block],
    *,
    program: Callable[[Block], Program],
    rounds: int,
    warmup: int,
    seed: int,
    report: Report,
    save: Callable[[], None],
) -> None:
    """Adds samples of each block until there are `rounds`, saving after each round.

    `program` makes the function that runs a block, no layers standing for an empty loop; `seed` is of the order.
    """
    todo = [name for name in blocks if len(samples.setdefault(name, [])) < rounds]
    done, total = 0, COMPILING * len(todo) + sum(rounds - len(samples[name]) for name in todo)
    compiled: list[Program] = []
    for call in _ahead(functools.partial(program, blocks[name]) for name in todo):
        compiled.append(call)
        done += COMPILING
        report(done, total, "compiling blocks")
    # a clock beside a compiler tells nothing, so the first sample comes after the last program
    samplers = {}
    for name, call in zip(todo, compiled, strict=True):
        samplers[name] = _sampler(call, warmup)
        report(done, total, "warming up")
    rng = np.random.default_rng(seed)
    while left := [name for name in todo if len(samples[name]) < rounds]:
        try:
            for at in rng.permutation(len(left)):
                samples[left[at]].append(list(samplers[left[at]]()))
                done += 1
                report(done, total, "timing blocks")
        finally:
            save()


def _ahead(makes: Iterable[Callable[[], Callable]]) -> Iterator[Callable]:
    """What each makes, in order, made by as many threads as there are cores."""
    makes = iter(makes)
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        # few at a time: an interruption waits for those that have begun
        waiting = [pool.submit(make) for make in itertools.islice(makes, threads)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(make) for make in itertools.islice(makes, 1)]


def xla_program(block: Block, *, batch: int, dtype: str, seed: int) -> Program:
    """A block compiled by XLA on JAX's default device."""
    rng = np.random.default_rng(seed)
    # the empty loop's input is large enough that XLA does not turn the loop into one kernel
    shapes = [x.output_shape for x in block if x.op == "input"] or [(128, 128)]
    inputs = tuple(rng.normal(size=(batch, *shape)).astype(DTYPES[dtype]) for shape in shapes)
    operands = jax.device_put((random_arrays(block, dtype, rng), inputs))

    def once(arrays, inputs, out):
        # one number of the last result goes into each input, so that XLA can neither hoist nor drop a turn; writing
        # it costs nothing beside a block. Bounded, because denormal and infinite numbers could change the time
        mark = jnp.clip(out[(0,) * out.ndim], 0.5, 1.0)
        inputs = tuple(lax.dynamic_update_slice(x, mark.reshape((1,) * x.ndim), (0,) * x.ndim) for x in inputs)
        return inputs, _run(block, arrays, inputs) if block else out + 0.25

    def repeat(arrays, inputs, turns):
        out = jnp.zeros((batch, *block[-1].output_shape) if block else 1, DTYPES[dtype])
        return lax.fori_loop(0, turns, lambda _, carry: once(arrays, *carry), (inputs, out))[1]

    compiled = jax.jit(repeat).lower(*operands, np.int32(1)).compile()

    def call(turns: int) -> float:
        start = time.perf_counter()
        compiled(*operands, np.int32(turns)).block_until_ready()
        return 1e3 * (time.perf_counter() - start)

    return call


def _sampler(call: Program, warmup: int) -> Callable[[], tuple[float, float]]:
    """A function that times (one turn, one call without a turn), in ms, with enough turns for the clock."""

    def sample(turns: int) -> tuple[float, float]:
        # the best of a few short calls: what another process takes of a core is no part of a block
        calls = [(call(turns), call(0)) for _ in range(CALLS)]
        whole, nothing = map(min, zip(*calls, strict=True))
        return (whole - nothing) / turns, nothing

    call(1)
    turns = 1
    while (took := turns * sample(turns)[0]) < CALL_MS / 3 and turns < 10**6:
        turns *= 8
    turns = max(1, round(turns * min(3.0, CALL_MS / took)))
    for _ in range(warmup):
        sample(turns)
    return functools.partial(sample, turns)


def _run(block: Block, arrays, inputs: Sequence[jax.Array]) -> jax.Array:
    """The output of a block, batch norm in inference."""
    weights, stats = arrays
    feed = iter(inputs)
    values: list[jax.Array] = []
    # a zero that XLA cannot see, see `once`: a convolution of zeros is run in a network that is called once, and would
    # be moved out of a loop
    zero = jnp.maximum(inputs[0][(0,) * inputs[0].ndim] - 1, 0)
    for layer in block:
        ins = [values[i] for i in layer.inputs]
        if layer.op == "input":
            values.append(next(feed))
        elif layer.op == "zeros":
            values.append(jnp.broadcast_to(zero, (inputs[0].shape[0], *layer.output_shape)))
        else:
            values.append(run_layer(layer, weights.get(layer.name, {}), stats.get(layer.name), ins, False)[0])
    return values[-1]


def random_arrays(block: Block, dtype: str, rng: np.random.Generator):
    """(weights, stats) as of a trained network: nothing that grows or fades over many layers."""

    def value(path, like):
        name = path[-1].key
        if name == "kernel":
            found = rng.normal(size=like.shape) * math.sqrt(2 / math.prod(like.shape[:-1]))
        else:
            found = np.full(like.shape, 1.0 if name in ("scale", "var") else 0.0)
        # statistics stay float32 whatever the precision, as in training
        return found.astype(like.dtype if name in ("mean", "var") else DTYPES[dtype])

    return jax.tree_util.tree_map_with_path(
        value, jax.eval_shape(lambda key: init_layers(block, key), jax.random.key(0))
    )
