"""What runs a network while it is timed: XLA through JAX, or ONNX Runtime, which people deploy on CPUs and phones."""

import contextlib
import functools
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from hw_models.blocks import Block
from hw_models.onnx_graph import to_onnx
from hw_models.timing import DTYPES, Program, random_arrays, xla_program
from nas.errors import BadInput, suggest
from nas.layers import Layer

RUNTIMES = ("xla", "onnx")


def runtime_name(runtime: str) -> str:
    """Runtime with its version, for stamps: ``xla-cpu jax 0.10.2``.

    Raises:
        BadInput: no such runtime, or it is not installed.
    """
    if runtime == "xla":
        return f"xla-{jax.devices()[0].platform} jax {jax.__version__}"
    if runtime == "onnx":
        return f"onnxruntime {require_runtime().__version__} cpu"
    raise BadInput(f"measure: no runtime '{runtime}'; {suggest(runtime, RUNTIMES)}")


def device_name(runtime: str) -> str:
    """The processor and the threads it gives this process, or JAX's accelerator."""
    device = jax.devices()[0]
    if runtime == "xla" and device.platform != "cpu":
        return device.device_kind
    return f"{_processor()}, {threads()} threads"


def threads() -> int:
    """Cores this process may use; both runtimes start as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin(count: int) -> None:
    """Keeps this process to so many of its cores, before a runtime has started its threads.

    Raises:
        BadInput: it has fewer, or the system pins no processes.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise BadInput("measure: this system cannot keep a process to some cores; leave the number of threads out")
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(cores):
        raise BadInput(f"measure: {count} threads on {len(cores)} cores; use 1 to {len(cores)}")
    os.sched_setaffinity(0, cores[:count])


def program_of(runtime: str, *, batch: int, dtype: str, seed: int) -> Callable[[Block], Program]:
    """What turns a block into a function that times it.

    Raises:
        BadInput: a precision that the runtime does not run.
    """
    if dtype not in DTYPES:
        raise BadInput(f"measure: no dtype '{dtype}'; {suggest(dtype, DTYPES)}")
    if runtime == "onnx" and dtype != "float32":
        raise BadInput(f"measure: ONNX graphs are written in float32, not {dtype}; use --runtime xla for that")
    if runtime == "xla":
        return functools.partial(xla_program, batch=batch, dtype=dtype, seed=seed)
    return functools.partial(onnx_program, batch=batch, seed=seed)


def require_runtime():
    """The module ``onnxruntime``.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise BadInput("ONNX: the package 'onnxruntime' is not installed; pip install 'nas-jax[onnx]'") from None
    return onnxruntime


def onnx_program(block: Block, *, batch: int, seed: int) -> Program:
    """A block in ONNX Runtime on the CPU, its inputs NCHW and bound once; a turn is one run of the session.

    A call without a turn is nothing. What a run costs by itself is seen in the empty block, a sum of two numbers.
    """
    runtime = require_runtime()
    rng = np.random.default_rng(seed)
    block = block or _nothing()
    weights, stats = random_arrays(block, "float32", rng)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3
    # the batch is left open, as in exported files: at a known one the runtime folds convolutions of zeros away
    model = to_onnx(block, weights, stats, layout="NCHW")
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for value in session.get_inputs():
        binding.bind_cpu_input(value.name, rng.normal(size=(batch, *value.shape[1:])).astype(np.float32))
    binding.bind_output("output")

    def call(turns: int) -> float:
        start = time.perf_counter()
        for _ in range(turns):
            session.run_with_iobinding(binding)
        return 1e3 * (time.perf_counter() - start)

    return call


def _nothing() -> Block:
    one = Layer("input", "input", {}, (), (), (1,))
    return (one, Layer("add", "add", {}, (0, 0), ((1,), (1,)), (1,)))


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
