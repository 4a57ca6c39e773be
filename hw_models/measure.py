"""A latency table of this machine, measured on the spot: every block of a space by itself, through XLA."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress

from hw_models.blocks import Block, Blocks, distinct, visit
from hw_models.runtimes import program_of
from hw_models.samples import about, open_samples, save_samples, stamp_of
from hw_models.table import EMPTY, network_name, table
from hw_models.timing import CALL_MS, CALLS, Report, fill
from nas.cost import Cost, sample_rows
from nas.errors import BadInput
from nas.evaluate import use_compilation_cache
from nas.space import Macro, SearchSpace

LINE_SECONDS = 10.0


def measure(
    space: SearchSpace,
    macro: Macro | None = None,
    *,
    runtime: str = "xla",
    batch: int = 1,
    dtype: str = "float32",
    rounds: int = 15,
    warmup: int = 3,
    networks: int = 8,
    progress: Callable[[int, int, str], None] | None = None,
    path: str | os.PathLike | None = None,
    seed: int = 0,
) -> Cost:
    """Latency in ms of every architecture of a space on this machine, from timing its blocks.

    Blocks and whole networks are timed in the same way (`hw_models.timing`), in `rounds` rounds of shuffled order;
    medians are taken. So with XLA the figure is the time inside of it; what a call from Python adds is in ``details``.
    Where the plain sum of blocks is more than `hw_models.table.GOOD_ENOUGH` off, one scale and one offset are fitted
    on the whole networks, if that predicts each from the others better; the stamp's error is then that of these
    predictions.

    Args:
        space: whose blocks and factors are used.
        macro: the frame; default the space's.
        runtime: ``xla``, on JAX's default device, or ``onnx``, ONNX Runtime on the CPU.
        batch: images a call.
        dtype: ``float32`` or ``bfloat16``, of weights and activations.
        rounds: samples of each block.
        warmup: samples before the first round.
        networks: whole networks to compare with, at least 4 for a fit; 0 for none, and then no error is known.
        progress: called with (done, total, what) after every program and sample. Default: a bar on stderr, or a line
            every ten seconds where that is no terminal.
        path: a file for the samples (JSON, written after each round); a measuring that was killed goes on from it, and
            a finished one is not repeated. It is not the table: that is what `Cost.save` writes.
        seed: of the compared networks, of weights, inputs and order.

    Returns:
        The table. ``details`` holds ``blocks`` (key -> ms, as timed, for `nas.cost.block_times`), ``loose`` (layers
        outside of blocks), ``spread`` (interquartile ranges, ms), ``validation`` (whole networks), ``call_ms`` (of a
        whole network without a turn), ``load`` (of the machine, at the end) and ``scale``, ``offset_ms``: a value of
        the table is offset + scale * (sum of blocks + loose layers).

    Raises:
        BadInput: a wrong argument; `path` holds samples of something else; two different blocks have the same key.
    """
    check_counts(batch=(batch, 1), rounds=(rounds, 3), warmup=(warmup, 1), networks=(networks, 0))
    macro = macro or space.macro
    if len(macro.input) == 1:
        raise BadInput(f"measure: networks of space '{space.name}' read a text and are no sum of blocks; take macs")
    source = f"blocks timed alone, medians {conditions(rounds, warmup)}"
    stamp = stamp_of(macro, batch, dtype, source, runtime)
    program = program_of(runtime, batch=batch, dtype=dtype, seed=seed)
    use_compilation_cache()
    common = about(space, stamp, seed)
    samples = open_samples(path, common)
    with reporting(progress) as report:
        blocks = Blocks(space, macro, lambda n, total: report(n, total, "listing blocks"))
        fit_on = visit(blocks, stamp)
    rows = distinct(sample_rows(space, 4 * networks, seed + 1))[:networks]
    programs: dict[str, Block] = {EMPTY: (), **blocks.layers}
    programs |= {network_name(row): space.layers(row, macro) for row in rows}
    take(samples, programs, program, rounds, warmup, seed, progress, lambda: save_samples(path, common, samples))
    return table(blocks, fit_on, rows, {name: samples[name] for name in programs}, stamp)


def take(samples, programs, program, rounds: int, warmup: int, seed: int, progress, save: Callable[[], None]) -> None:
    """`hw_models.timing.fill`, with its progress shown as `measure` says."""
    with reporting(progress) as report:
        fill(samples, programs, program=program, rounds=rounds, warmup=warmup, seed=seed, report=report, save=save)


@contextlib.contextmanager
def reporting(progress: Report | None) -> Iterator[Report]:
    """Where reports go: the caller's function, a bar with the time left, or plain lines."""
    if progress is not None:
        yield progress
        return
    start = shown = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("measuring", total=None)

        def report(done: int, total: int, what: str) -> None:
            nonlocal shown
            bar.update(task, completed=done, total=total, description=what)
            now = time.monotonic()
            if bar.disable and now - shown > LINE_SECONDS:
                left = (now - start) * (total - done) / done
                print(f"measure: {what}, {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)
                shown = now

        yield report


def conditions(rounds: int, warmup: int) -> str:
    """How the samples were taken, for stamps."""
    best = f"each the best of {CALLS} calls of about {CALL_MS:g} ms"
    return f"of {rounds} rounds, {best}, after {warmup} warm-up samples"


def check_counts(**least: tuple[int, int]) -> None:
    """Refuses what is no whole number of at least so much: name -> (value, least)."""
    for name, (value, at_least) in least.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise BadInput(f"measure: {name} is {value!r}; it must be a whole number of at least {at_least}")
