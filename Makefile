# `make demo` and `make test` do all the set-up themselves; they need Python >= 3.11, make and the package
# registries, nothing else.
PYTHON ?= python3
WORKERS ?= auto
BIN := .venv/bin

.PHONY: demo test test-fast test-hostile clean

demo: .venv/.demo
	$(BIN)/attnbridge demo

# Parallel processes with one thread each: PyTorch's threads spin where something else runs.
test test-fast test-hostile: export OMP_NUM_THREADS = 1
test: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --cov --cov-report term --cov-fail-under 90

test-fast: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --ignore tests/hostile -m "not slow and not hostile"

test-hostile: .venv/.test
	$(BIN)/pytest tests/hostile -n $(WORKERS) -m "hostile or not hostile"

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "attnbridge needs Python 3.11 or newer; name one: make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.python pyproject.toml
	@echo "installing attnbridge and what it needs into .venv (PyTorch is large: a minute or more)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train]'
	touch $@

.venv/.test: .venv/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf .venv runs .coverage* .pytest_cache .mypy_cache .ruff_cache
