"""A Ray to work on: joined, or started for one search; what fits into it, and whether it still stands."""

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from typing import Any

# read by Ray when it starts: our own journal and progress take the place of its loggers and tables
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# workers stay in the folder they were started in, where relative names of data mean what the person meant
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from nas.errors import BadInput


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[bool]:
    """Ray, started where it is not there yet and then shut down at the end; gives whether it was."""
    own = not ray.is_initialized()
    try:
        connect(address)
        yield own
    finally:
        if own and ray.is_initialized():
            ray.shutdown()


def connect(address: str | None) -> None:
    """Joins the Ray at `address` or RAY_ADDRESS; without either, one of this process alone is started.

    Raises:
        BadInput: no Ray answers there.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    _quieten()
    if address is None:
        options |= {"include_dashboard": False, "num_cpus": cores()}
    else:
        check_address(address)
    try:
        with warnings.catch_warnings():
            # Ray starts its processes by fork and exec at once; the threads that JAX warns about are not carried over
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            ray.init(address=address, **options)
        _quieten()
    except ConnectionError as error:
        raise BadInput(f"address: no Ray cluster at '{address}' ({str(error).splitlines()[0]})") from None


def check_address(address: str) -> None:
    """Whether somebody listens there; Ray itself tries for minutes and then kills the process.

    Raises:
        BadInput: nobody does, or it is no address.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        if address in ("auto", "local"):
            return
        raise BadInput(f"address: '{address}' is none; give host:port or auto, or leave it out")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise BadInput(f"address: no Ray cluster at '{address}' ({error}); give host:port, or leave it out") from None


def _quieten():
    # Ray sets its levels again when it starts
    for name in ("ray", "ray.tune", "ray.air", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.ERROR)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitting(asked: int | None, cpus: float, gpus: float) -> int:
    """How many workers of so many CPUs and GPUs: as asked for, or as many as there is room for.

    Raises:
        BadInput: there is no room for as many.
    """
    there = ray.cluster_resources()
    room = int(there.get("CPU", 0) // cpus) if cpus else 10**6
    if gpus:
        room = min(room, int(there.get("GPU", 0) / gpus))
    if asked is not None and asked < 1:
        raise BadInput(f"workers is {asked}; it must be at least 1")
    if room < 1 or (asked or 1) > room:
        most = f"ask for at most {room}" if room else "give each of them less"
        have = ", ".join(f"{there.get(k, 0):g} {k}s" for k in ("CPU", "GPU") if k == "CPU" or gpus)
        need = f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        raise BadInput(f"workers: {asked or 1} of {need} each do not fit into {have}; {most}")
    return asked or room


def stands(node: str | None = None) -> bool:
    """Whether the raylet of a node answers, or of any; Ray itself takes up to 15 seconds to call one dead."""
    for one in ray.nodes():
        if one["Alive"] and node in (None, one["NodeID"]):
            with contextlib.suppress(OSError):
                socket.create_connection((one["NodeManagerAddress"], one["NodeManagerPort"]), timeout=2).close()
                return True
    return False


class StaysHere:
    """Ray pickles its searcher, scheduler and callbacks for a resume of its own; ours reads the journal."""

    def __getstate__(self):
        return {}


def limit_xla(cpus: float, gpus: float) -> None:
    """Threads and memory of XLA in this process; it reads them when it starts, with the first array."""
    os.environ["NPROC"] = str(max(1, int(cpus)))
    if 0 < gpus < 1:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * gpus:.3f}"
