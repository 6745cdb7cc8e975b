# Everyday commands. A new machine needs Python 3.11 or later, make, and nothing else: the first command that needs
# the virtual environment makes it.
#
#   make test T=tests/unit/test_retry.py ARGS='-k jitter -x'
#   make demo PYTHON=python3.13

PYTHON ?= python3
# What to test, further arguments for pytest, demo or benchmarks, and how many test processes.
T =
ARGS =
JOBS = auto

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The environment is ours alone: no modules from elsewhere, no Node of the machine, no look-up of newer releases.
unexport PYTHONPATH PYTHONHOME PYRIGHT_PYTHON_FORCE_VERSION PYRIGHT_PYTHON_PYLANCE_VERSION
export PYRIGHT_PYTHON_GLOBAL_NODE := 0
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test check lint types layers fix bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: .venv/.runtime ## Run the example: an order that survives a crash
	$(BIN)/python examples/order/demo.py $(ARGS)

test: .venv/.dev ## Run the tests (T=path, ARGS='-k name', JOBS=n)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --maxprocesses 8 $(ARGS) $(T)

check: lint types layers ## Everything that can be said without running: lint, types, layers

lint: .venv/.dev ## Style and common mistakes
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/.dev ## Types, strictly
	$(BIN)/pyright

layers: .venv/.dev ## Imports go down only
	$(BIN)/lint-imports

fix: .venv/.dev ## Format, and repair what can be repaired
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/.runtime ## Measure (ARGS='--help')
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove the virtual environment and all caches
	rm -rf .venv dist build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Three stamps, so that `make demo` does not wait for a type checker.

.venv/.dev: pyproject.toml .venv/.base
	@echo 'Installing stepwell and the development tools into .venv ...'
	@$(PIP) --editable '.[dev]'
	@touch .venv/.runtime $@

.venv/.runtime: pyproject.toml .venv/.base
	@echo 'Installing stepwell into .venv ...'
	@$(PIP) --editable .
	@touch $@

.venv/.base:
	@command -v $(PYTHON) >/dev/null || { \
		echo "error: '$(PYTHON)' not found. Install Python 3.11 or later (Debian: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: stepwell needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, sqlite3, venv' || { \
		echo "error: '$(PYTHON)' cannot make virtual environments, or has no sqlite3. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@touch $@
