"""Candidates of NAS-Bench-201 trained from scratch a minute, each contender with the whole machine, in one run.

Ours, with one shared program or one compiled for each candidate, in a one-core process for each core, against eager
PyTorch (`experiments.torch_children`) in NCHW and channels_last, as threads and as processes. Rows, images, epochs,
batch, SGD, schedule and width are the same, and each makes one pass over the validation images. Contenders take turns
on the rows of a round while the others wait. Rates are medians over rounds, from the seconds that processes were busy,
without what was compiled or loaded before; "all in" adds all compilation of the run. "CPU s" is the processor time of a
candidate, which others on the machine change little. Ratios are those within a round, by seconds and by CPU time.

Run: ``python -m experiments.bench_children [--data digits|cifar10] [--epochs 20] [--candidates 2] [--rounds 5]``.
"""

import argparse
import contextlib
import json
import multiprocessing as mp
import os
import time
from dataclasses import replace

import jax
import numpy as np

from nas.data import Split, gather, load, on_device
from nas.evaluate import fit_macro, own_program, train_network
from nas.recipe import Recipe
from nas.train import make_program
from search_spaces import nasbench201

WIDTH, DEPTH, BATCH = 16, 1, {"digits": 128, "cifar10": 64}
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


def timed(function, *args):
    """(seconds, CPU seconds of this process, value)."""
    wall, cpu, value = time.perf_counter(), time.process_time(), function(*args)
    return time.perf_counter() - wall, time.process_time() - cpu, value


def jax_trainer(variant, data, splits, recipe):
    """``row -> (seconds, CPU seconds, accuracy, seconds of compilation, compilations)``."""
    space = nasbench201(width=WIDTH, depth=DEPTH)
    macro, program = fit_macro(space.macro, data), None
    settings = dict(count=len(data.train.labels), batch=recipe.batch, key=jax.random.key(0), order_seed=0)

    def run(row, epochs):
        *_, metrics = train_network(program, row, splits, epochs=epochs, report_at={epochs}, **settings)
        return metrics["accuracy"]

    def train(row):
        nonlocal program
        if cold := variant == "own" or program is None:
            shared = variant == "shared" and make_program(space.supernet(macro), recipe)
            program = shared or own_program(space, row, macro, recipe)
            cold = timed(run, row, 1)[0]
        measured = timed(run, row, recipe.epochs)
        # the first epoch was there to compile; what it takes once compiled is not compilation
        return *measured, max(cold - measured[0] / recipe.epochs, 0), program.compilations() if cold else 0

    return train


def torch_trainer(variant, splits, recipe, threads):
    """The same for PyTorch, with the images normalised as ours are."""
    from experiments.torch_children import train_candidate

    images, validation = ([np.asarray(a) for a in gather(s, np.arange(len(s.labels)))] for s in splits)
    settings = dict(width=WIDTH, cells=DEPTH, epochs=recipe.epochs, batch=recipe.batch, threads=threads, seed=0)
    settings |= dict(validation=validation, channels_last=variant == "channels_last")
    return lambda row: (*timed(lambda: train_candidate(row, *images, **settings)[1]), 0.0, 0)


def work(pipe, variant: str, threads: int, name: str, epochs: int) -> None:
    """A worker: lists of rows in, lists of measurements out. Of CIFAR-10, 2,000 and 1,000 images."""
    data = load(name, limit=None if name == "digits" else 2000)
    data = replace(data, validation=Split(data.validation.images[:1000], data.validation.labels[:1000]))
    splits = [on_device(split, data.mean, data.std) for split in (data.train, data.validation)]
    recipe = Recipe(epochs=epochs, batch=BATCH[name], gradient_clip=0.0)
    ours = variant in ("shared", "own")
    train = jax_trainer(variant, data, splits, recipe) if ours else torch_trainer(variant, splits, recipe, threads)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        pipe.send([train((3, 1, 2, 4, 3, 0))])  # compiles, and fills every library's caches
        while True:
            pipe.send([train(row) for row in pipe.recv()])


def start(variant, processes, threads, name, epochs):
    """(pipes to started workers, measurements of their first candidates)."""
    os.environ["NPROC"] = str(threads)  # read when a worker imports JAX
    context = mp.get_context("spawn")
    pipes, theirs = zip(*(context.Pipe() for _ in range(processes)), strict=True)
    for pipe in theirs:
        context.Process(target=work, args=(pipe, variant, threads, name, epochs), daemon=True).start()
    return pipes, [m for pipe in pipes for m in pipe.recv()]


def summary(rounds, ours, first, processes) -> dict:
    """The figures of one contender: medians over rounds, and (median, least, most) of the ratios."""
    measured, ours = np.asarray([rounds, ours])  # [rounds, candidates, 5] each
    each, ours = measured[..., :2].mean(1), ours[..., :2].mean(1)
    compiling, compiled = measured[..., 3:].sum((0, 1)) + np.reshape(first, (-1, 5))[:, 3:].sum(0)
    seconds, cpu = np.median(each, 0)
    return {
        "rate": 60 * processes / seconds,
        "rate_all_in": 60 * processes / (seconds + compiling / measured[..., 0].size),
        "compilations": int(compiled),
        "accuracy": measured[..., 2].mean(),
        "cpu": cpu,
        "ours_over_it": np.quantile(each / ours * (CORES / processes, 1), (0.5, 0, 1), axis=0).T.tolist(),
    }


def main() -> None:
    """Prints the table, or with ``--json`` everything measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(BATCH), default="digits")
    parser.add_argument("--json", action="store_true")
    for name, default in dict(epochs=20, candidates=CORES, rounds=5, seed=0).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    o, loads = parser.parse_args(), [os.getloadavg()[0]]
    workers = {name: start(*setting, o.data, o.epochs) for name, setting in CONTENDERS.items()}
    rounds = {name: [] for name in CONTENDERS}
    for rows in np.random.default_rng(o.seed).integers(0, 5, (o.rounds, o.candidates, 6)).tolist():
        for name, (pipes, _) in workers.items():
            for i, pipe in enumerate(pipes):
                pipe.send(rows[i :: len(pipes)])
            rounds[name].append([m for pipe in pipes for m in pipe.recv()])
    first = {OURS: workers[OURS][1]}  # compilation of the shared program
    table = {n: summary(rounds[n], rounds[OURS], first.get(n, []), c[1]) for n, c in CONTENDERS.items()}
    loads.append(os.getloadavg()[0])
    loaded = loads[0] > 0.5 or loads[1] > CORES + 0.5
    if o.json:
        return print(json.dumps(vars(o) | {"cores": CORES, "load": loads, "loaded": loaded, "contenders": table}))
    print(f"{o.data}, {o.epochs} epochs, {o.rounds} rounds of {o.candidates} candidates, {CORES} cores")
    print(" " * 34 + "a minute  all in compiled accuracy  CPU s   ours over it: rate, CPU (of rounds)")
    for name, e in table.items():
        print(f"{name:33}{e['rate']:9.1f}{e['rate_all_in']:8.1f}{e['compilations']:9}{e['accuracy']:9.3f}", end="")
        print(f"{e['cpu']:7.2f}   " + ", ".join(f"{m:.2f} ({a:.2f}-{b:.2f})" for m, a, b in e["ours_over_it"]))
    said = "THE MACHINE WAS LOADED by others: trust the ratios" if loaded else "no other load seen"
    print("load average {:.1f} before, {:.1f} after:".format(*loads), said)


if __name__ == "__main__":
    main()
