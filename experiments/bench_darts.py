"""A search step of DARTS, ours beside eager PyTorch (`experiments.torch_darts`), in one run.

A step is one of the logits on validation images and one of the weights on training images, first order: width 8, 4
cells of 4 nodes, all 8 operations, batches of 32 images of 32x32x3. Contenders are processes of their own that take
turns, a round each; ratios are those within a round, by seconds and by CPU time, which others on the machine change
little. Ours starts twice with one compilation cache: cold, then cached; seconds to the first step include tracing.
``--memory`` adds XLA's figures (``compiled.memory_analysis()``) for both orders, with and without rematerialisation,
compiled without LLVM's optimisations, which do not change memory. On a loaded machine use ``--cores 1``: PyTorch's
threads spin while they wait for one another.

Run: ``python -m experiments.bench_darts [--rounds 5] [--steps 2] [--width 8] [--depth 4] [--batch 32] [--memory]``.
"""

import argparse
import multiprocessing as mp
import os
import tempfile
import time

import jax
import numpy as np

from nas.one_shot import Batch
from nas.recipe import Recipe
from nas.space import Macro
from search_spaces import darts as space_of
from strategies.darts import darts

CORES = len(os.sched_getaffinity(0))
OURS, RIVALS = "ours", ("PyTorch NCHW", "PyTorch channels_last")
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def timed(function, *args):
    """(seconds, CPU seconds of this process, value)."""
    wall, cpu, value = time.perf_counter(), time.process_time(), function(*args)
    return time.perf_counter() - wall, time.process_time() - cpu, value


def images(o, seed):
    """float32[batch, 32, 32, 3] and int labels."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(o.batch, 32, 32, 3)).astype(np.float32), draw.integers(0, 10, o.batch)


def lowered(o, **settings):
    """(state, its arguments, the traced step) of our search."""
    recipe, macro = Recipe(batch=o.batch), Macro(o.width, o.depth, (32, 32, 3), 10)
    method = darts(space_of(), macro=macro, recipe=recipe, steps=1000, **settings)
    state = jax.jit(method.init)(jax.random.key(0))
    given = *(Batch(*map(jax.numpy.asarray, images(o, seed))) for seed in (0, 1)), jax.random.key(1), np.float32(0.1)
    return state, given, jax.jit(method.step, donate_argnums=0).lower(state, *given)


def jax_stepper(o):
    """A function that takes `o.steps` steps."""
    state, given, traced = lowered(o)
    step = traced.compile()

    def steps():
        nonlocal state
        for _ in range(o.steps):
            state, metrics = step(state, *given)
        return float(metrics["loss"])

    return steps


def torch_stepper(o, channels_last):
    """The same for PyTorch."""
    import torch

    from experiments.torch_darts import searcher

    step, layout = searcher(o.width, o.depth, 10, channels_last=channels_last, threads=o.cores)
    batches = []
    for x, labels in (images(o, seed) for seed in (0, 1)):
        x = torch.tensor(x).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        batches.append((x, torch.tensor(labels)))

    def steps():
        for _ in range(o.steps):
            step(*batches)

    return steps


def work(pipe, name, o, cache):
    """A worker: sends (seconds, CPU seconds) up to its first step, then those of a step for each request."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: o.cores])
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

    def start():
        steps = jax_stepper(o) if name.startswith(OURS) else torch_stepper(o, name == RIVALS[1])
        return steps, steps()

    *first, (steps, _) = timed(start)
    pipe.send(first)
    while pipe.recv():
        pipe.send([spent / o.steps for spent in timed(steps)[:2]])


def start(name, o, cache):
    """(pipe, process, what it took to its first step)."""
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, name, o, cache), daemon=True)
    process.start()
    return ours, process, ours.recv()


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in dict(rounds=5, steps=2, width=8, depth=4, batch=32, cores=CORES).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--memory", action="store_true")
    o, load = parser.parse_args(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as cache:
        cold = start(OURS, o, cache)
        cold[0].send(False)
        workers = {name: start(name, o, cache) for name in (OURS, *RIVALS)}
    rounds: dict = {name: [] for name in workers}
    for _ in range(o.rounds):
        for name, (pipe, *_) in workers.items():
            pipe.send(True)
            rounds[name].append(pipe.recv())
    for pipe, *_ in workers.values():
        pipe.send(False)
    print(f"width {o.width}, {o.depth} cells, batch {o.batch}, {o.rounds} rounds of {o.steps} steps, {o.cores} cores")
    for label, (*_, (wall, cpu)) in (("cold", cold), ("cached", workers[OURS])):
        print(f"ours to the first step, {label:7}{wall:8.1f} s, {cpu:6.1f} CPU s")
    print(" " * 24 + "s a step   CPU s   over ours: seconds, CPU (of rounds)")
    for name, each in rounds.items():
        ratios = np.quantile(np.asarray(each) / rounds[OURS], (0.5, 0, 1), axis=0).T
        said = ", ".join(f"{middle:.2f} ({least:.2f}-{most:.2f})" for middle, least, most in ratios)
        wall, cpu = np.median(each, 0)
        print(f"{name:24}{wall:8.2f}{cpu:8.2f}   {said}")
    for order in (1, 2) if o.memory else ():
        for remat in (True, False):
            memory = lowered(o, order=order, remat=remat)[-1].compile(QUICK).memory_analysis()
            print(f"order {order}, {'with' if remat else 'without'} remat: {memory.temp_size_in_bytes / 2**20:.0f} MiB")
    print(f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after, {CORES} cores")


if __name__ == "__main__":
    main()
