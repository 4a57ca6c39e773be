"""Candidates of NAS-Bench-201 trained from scratch a minute, each contender with the whole machine, in one run.

* ours, one shared program, or a program compiled for each candidate: a one-core process for each core;
* eager PyTorch (`experiments.torch_children`) in NCHW and channels_last: one process with a thread for each core, and
  a one-thread process for each core.

All train the same rows on the same images for as many epochs, with the same batch, SGD, schedule and width, and make
one pass over the validation images. Contenders take turns on the rows of a round while the others wait. Rates are
medians over rounds, from the seconds that processes were busy, without what was compiled or loaded before; "all in"
adds all compilation of the run (of a shared program: once a process). "CPU s" is the processor time of a candidate,
which others on the machine change little; the ratios are those within a round, by seconds and by processor time.

Run: ``python -m experiments.bench_children [--data digits|cifar10] [--epochs 20] [--candidates 2] [--rounds 5]``.
"""

import argparse
import json
import multiprocessing as mp
import os
import time
from dataclasses import replace
from statistics import mean, median

import jax
import numpy as np

from nas.data import Split, gather, load, on_device
from nas.evaluate import fit_macro, own_program, train_network
from nas.train import Recipe, make_program
from search_spaces import nasbench201

WIDTH, DEPTH = 16, 1
BATCH = {"digits": 128, "cifar10": 64}
CORES = len(os.sched_getaffinity(0))
OURS = "ours, shared program"
CONTENDERS = {  # name -> (variant, processes, threads of each)
    OURS: ("shared", CORES, 1),
    "ours, own programs": ("own", CORES, 1),
    "PyTorch NCHW, threads": ("nchw", 1, CORES),
    "PyTorch NCHW, processes": ("nchw", CORES, 1),
    "PyTorch channels_last, threads": ("channels_last", 1, CORES),
    "PyTorch channels_last, processes": ("channels_last", CORES, 1),
}


def prepared(name: str):
    """(data, splits): training and validation; of CIFAR-10 the first 2,000 and 1,000 images of the usual splits."""
    data = load(name, limit=None if name == "digits" else 2000)
    data = replace(data, validation=Split(data.validation.images[:1000], data.validation.labels[:1000]))
    return data, [on_device(split, data.mean, data.std) for split in (data.train, data.validation)]


def jax_trainer(variant: str, name: str, epochs: int):
    """``row -> (seconds, CPU seconds, seconds of compilation, accuracy, compilations)``."""
    data, splits = prepared(name)
    recipe = Recipe(epochs=epochs, batch=BATCH[name], gradient_clip=0.0)
    space = nasbench201(width=WIDTH, depth=DEPTH)
    macro, shared = fit_macro(space.macro, data), []

    def run(program, row, epochs):
        def go():
            settings = dict(count=len(data.train.labels), batch=recipe.batch, key=jax.random.key(0), order_seed=0)
            *_, metrics = train_network(program, row, splits, epochs=epochs, report_at={epochs}, **settings)
            return metrics["accuracy"]

        return timed(go)

    def train(row):
        program = shared[0] if shared else None
        cold = 0.0
        if program is None:
            own = variant == "own"
            program = own_program(space, row, macro, recipe) if own else make_program(space.supernet(macro), recipe)
            cold = run(program, row, 1)[0]
            shared.extend([] if own else [program])
        seconds, cpu, accuracy = run(program, row, epochs)
        # the first epoch was there to compile; what it takes once compiled is not compilation
        return seconds, cpu, max(cold - seconds / epochs, 0.0), accuracy, program.compilations() if cold else 0

    return train


def torch_trainer(variant: str, name: str, epochs: int, threads: int):
    """The same for PyTorch, with the images normalised as ours are."""
    from experiments.torch_children import train_candidate

    arrays = [[np.asarray(a) for a in gather(s, np.arange(len(s.labels)))] for s in prepared(name)[1]]
    settings = dict(width=WIDTH, cells=DEPTH, epochs=epochs, batch=BATCH[name], threads=threads, seed=0)
    settings |= dict(validation=arrays[1], channels_last=variant == "channels_last")

    def train(row):
        seconds, cpu, accuracy = timed(lambda: train_candidate(row, *arrays[0], **settings)[1])
        return seconds, cpu, 0.0, accuracy, 0

    return train


def timed(function):
    """(seconds, CPU seconds of this process, value)."""
    started = time.perf_counter(), time.process_time()
    value = function()
    return time.perf_counter() - started[0], time.process_time() - started[1], value


def work(pipe, variant: str, threads: int, name: str, epochs: int) -> None:
    """A worker: lists of rows in, lists of measurements out, until None."""
    ours = variant in ("shared", "own")
    train = jax_trainer(variant, name, epochs) if ours else torch_trainer(variant, name, epochs, threads)
    pipe.send([train((3, 1, 2, 4, 3, 0))])  # compiles, and fills every library's caches
    while rows := pipe.recv():
        pipe.send([train(row) for row in rows])


def start(variant, processes, threads, name, epochs):
    """(pipes to started workers, measurements of their first candidates)."""
    os.environ["NPROC"] = str(threads)  # read when a worker imports JAX
    context, pipes = mp.get_context("spawn"), []
    for _ in range(processes):
        here, there = context.Pipe()
        context.Process(target=work, args=(there, variant, threads, name, epochs), daemon=True).start()
        pipes.append(here)
    return pipes, collect(pipes)


def collect(pipes) -> list:
    """The measurements of all workers."""
    return [measured for pipe in pipes for measured in pipe.recv()]


def main() -> None:
    """Prints the table, or with ``--json`` everything measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(BATCH), default="digits")
    for name, default in dict(epochs=20, candidates=CORES, rounds=5, seed=0).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    o = parser.parse_args()
    loads = [os.getloadavg()[0]]
    workers = {name: start(*setting, o.data, o.epochs) for name, setting in CONTENDERS.items()}
    draw, rounds = np.random.default_rng(o.seed), {name: [] for name in CONTENDERS}
    for _ in range(o.rounds):
        rows = [tuple(map(int, row)) for row in draw.integers(0, 5, (o.candidates, 6))]
        for name, (pipes, _) in workers.items():
            busy = pipes[: len(rows)]  # an empty list would end a worker
            for i, pipe in enumerate(busy):
                pipe.send(rows[i :: len(busy)])
            rounds[name].append(collect(busy))
    loads.append(os.getloadavg()[0])
    table = {name: summary(rounds[name], rounds[OURS], workers[name][1], *CONTENDERS[name][:2]) for name in CONTENDERS}
    loaded = loads[0] > 0.5 or loads[1] > CORES + 0.5
    if o.json:
        return print(json.dumps({"settings": vars(o), "cores": CORES, "loads": loads, "loaded": loaded, "rows": table}))
    print(f"{o.data}, {o.epochs} epochs, {o.rounds} rounds of {o.candidates} candidates, {CORES} cores")
    print(f"{'':33}{'a minute':>9}{'all in':>8}{'compiled':>9}{'accuracy':>9}{'CPU s':>7}   ours over it: rate, CPU")
    for name, e in table.items():
        print(f"{name:33}{e['rate']:9.1f}{e['rate_all_in']:8.1f}{e['compilations']:9}{e['accuracy']:9.3f}", end="")
        print(f"{e['cpu']:7.2f}   {' '.join(f'{m:.2f} ({a:.2f}-{b:.2f})' for a, m, b in e['ours_over_it'])}")
    said = "THE MACHINE WAS LOADED by others: trust the ratios, not the rates" if loaded else "no other load seen"
    print(f"load average {loads[0]:.1f} before, {loads[1]:.1f} after: {said}")


def summary(rounds, ours, first, variant, processes) -> dict:
    """The figures of one contender: medians over rounds, and (least, median, most) of the ratios."""
    every = [m for r in rounds for m in r]
    seconds, cpu, our_seconds, our_cpu = ([mean(m[i] for m in r) for r in of] for of in (rounds, ours) for i in (0, 1))
    compiled = every + (first if variant == "shared" else [])
    all_in = median(seconds) + sum(m[2] for m in compiled) / len(every)
    by_rate = [CORES * b / (processes * a) for a, b in zip(our_seconds, seconds, strict=True)]
    by_cpu = [b / a for a, b in zip(our_cpu, cpu, strict=True)]
    return {
        "rate": 60 * processes / median(seconds),
        "rate_all_in": 60 * processes / all_in,
        "compilations": sum(m[4] for m in compiled),
        "accuracy": mean(m[3] for m in every),
        "cpu": median(cpu),
        "ours_over_it": [(min(r), median(r), max(r)) for r in (by_rate, by_cpu)],
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
