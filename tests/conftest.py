"""What all tests share: compiled programs kept between runs, and where the published tables lie."""

import gc
import os
from pathlib import Path

# most of the suite's time is the compilation of programs that run once; a test promises figures, not speed. In the
# environment, so that workers and commands share it: a program from the cache may round otherwise than one without
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).resolve().parent.parent / ".cache" / "jax-tests")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"

import jax
import pytest

from nas.space import Decision, Macro, SearchSpace

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def _programs_are_dropped():
    """Each compiled program holds mappings of memory, of which Linux gives a process 65,530; then it crashes."""
    yield
    jax.clear_caches()
    gc.collect()


def _network(net, macro):
    x = net.batch_norm(net.conv(net.input, macro.width, 3, name="stem"), name="stem_bn")
    for name in ("first", "second"):
        branches = {
            "none": lambda x=x: net.zeros(net.shape(x)),
            "skip": lambda x=x: x,
            "pool": lambda x=x: net.avg_pool(x),
            "conv_1": lambda x=x: net.batch_norm(net.conv(net.activation(x), macro.width, 1)),
            "conv_3": lambda x=x: net.batch_norm(net.conv(net.activation(x), macro.width, 3)),
        }
        x = net.add([x, net.choice(name, branches)], name=f"{name}_sum")
    return net.linear(net.global_avg_pool(x), macro.classes)


def small() -> SearchSpace:
    """Two choices among five operations, for digits; one program for all that compiles in a second or two."""
    options = ("none", "skip", "pool", "conv_1", "conv_3")
    decisions = tuple(Decision(name, options) for name in ("first", "second"))
    return SearchSpace("small", decisions, _network, Macro(4, 1, (8, 8, 1), 10))


small_space = pytest.fixture(small, scope="session", name="small_space")


@pytest.fixture(scope="session")
def published():
    """``(name) -> Path`` of a published table under NAS_DATA; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("NAS_DATA", ROOT.parent / "shared" / "data")) / name
        if not path.exists():
            pytest.skip(f"{path} is absent; set NAS_DATA to the folder of published tables")
        return path

    return find
