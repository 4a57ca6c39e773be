# Everything happens in .venv; the first call sets it up, later ones are quick.
FITS = import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do $$p -c "$(FITS)" 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-slow lint docs clean

demo: .venv/ready  ## search, retrain and report on digits, on this machine
	$(BIN)/python -m experiments.demo

test: .venv/ready  ## the suite
	$(PYTEST) -n 2 -m "not slow"

test-slow: .venv/ready  ## the long tests
	$(PYTEST) -m slow

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/ready  ## what is made from the code
	$(BIN)/python -m experiments.make_docs

clean:
	rm -rf .venv build *.egg-info

.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "nas needs Python 3.11 to 3.13, and none was found; call: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@if command -v uv >/dev/null; then \
	  uv venv -q --allow-existing --python $(PYTHON) .venv && \
	  uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
	  $(PYTHON) -m venv .venv && $(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@
