# Everything happens in .venv; the first call sets it up, later ones are quick.
PYTHON ?= $(shell command -v python3.13 python3.12 python3.11 python3 python | head -n 1)
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
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"nas needs Python 3.11 to 3.13, this is {v.major}.{v.minor}; call: make PYTHON=python3.11")'
	@if command -v uv >/dev/null; then \
	  uv venv -q --allow-existing --python $(PYTHON) .venv && \
	  uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
	  $(PYTHON) -m venv .venv && $(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@
