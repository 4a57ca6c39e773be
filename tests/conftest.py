"""What all tests share: compiled programs kept between runs, and where the published tables lie."""

import os
from pathlib import Path

# most of the suite's time is LLVM optimising programs that run once; a test promises figures, not speed
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent

jax.config.update("jax_compilation_cache_dir", os.environ.get("NAS_TEST_CACHE", str(ROOT / ".cache" / "jax-tests")))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def published():
    """``(name) -> Path`` of a published table under NAS_DATA; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("NAS_DATA", ROOT.parent / "shared" / "data")) / name
        if not path.exists():
            pytest.skip(f"{path} is absent; set NAS_DATA to the folder of published tables")
        return path

    return find
