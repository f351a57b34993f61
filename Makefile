# Needs make and a Python of at least 3.11; everything else goes into $(VENV). `make help` lists the
# targets. Settings, each as `make <target> NAME=value`:
#   PYTHON       the Python that the virtual environment is made from
#   VENV         where the virtual environment is, without spaces
#   EXTRAS       optional dependencies of pyproject.toml to add, as in EXTRAS=cuda12
#   PYTEST_ARGS  as in PYTEST_ARGS=tests/test_launchers.py
#   LOCK_ARGS    for uv pip compile, as in LOCK_ARGS=--upgrade or LOCK_ARGS='-P jax -P jaxlib'
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?=
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
LOCK_ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check --no-input
SETUP := $(VENV)/.installed $(EXTRAS:%=$(VENV)/.extra-%)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo check test lint format bench docs lock clean

help: ## show this list
	@echo "usage: make <target>"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' Makefile

setup: $(SETUP) ## make the virtual environment (the other targets do it themselves)

demo: $(SETUP) ## train, sample and score a small model: minutes on a CPU, result in runs/demo
	@$(PY) -m timeldm_jax.launch --config=configs/mujoco.py:quick --workdir=runs/demo

check: lint ## lint, types and the tests that train nothing: two minutes, for everyday use
	@echo "pytest, without the tests that train"
	@$(PY) -m pytest $(PYTEST_ARGS) -m "not slow and not training"

test: lint ## lint, formatting, types and tests
	@echo "pytest"
	@$(PY) -m pytest $(PYTEST_ARGS)

lint: $(SETUP) ## lint, formatting and types
	@echo "ruff check"
	@$(PY) -m ruff check .
	@echo "ruff format --check"
	@$(PY) -m ruff format --check .
	@echo "mypy"
	@$(PY) -m mypy

format: $(SETUP) ## repair formatting and what lint can repair itself
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

# Any source of packages that pip is configured with can offer a CPU build of PyTorch (a version that
# ends in +cpu) and wins over the default build, which on Linux carries several GB of CUDA.
bench: $(SETUP) $(VENV)/.extra-bench ## the benchmark tables, against PyTorch (installs it)
	@$(PY) benchmarks/throughput.py
	@$(PY) benchmarks/scores.py

docs: $(SETUP) $(VENV)/.extra-docs ## build the site into site/ (installs what builds it); fails on a broken link
	@$(PY) docs/configuration.py
	@$(PY) -m zensical build --clean --strict

lock: | $(VENV)/bin/pip ## renew requirements.lock from pyproject.toml (LOCK_ARGS=--upgrade: newest versions)
	@$(PIP) install uv
	@$(PY) -m uv pip compile --quiet --universal --python-version 3.11 \
		--extra mujoco --extra dev --no-annotate --custom-compile-command "make lock" \
		--output-file requirements.lock $(LOCK_ARGS) pyproject.toml

clean: ## remove .venv, caches and build outputs; runs/ stays
	@rm -rf .venv build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +

# The target is pip, not python: where Debian's python3-venv is missing, venv fails and leaves a python.
$(VENV)/bin/pip:
	@command -v "$(PYTHON)" >/dev/null && \
		"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "timeldm_jax needs Python 3.11 or newer; $(PYTHON) is" \
			"$$("$(PYTHON)" --version 2>/dev/null || echo missing)." \
			"Name another one: make ... PYTHON=python3.12" >&2; \
		exit 1; }
	@"$(PYTHON)" -m venv "$(VENV)"

# The lock is complete, so pip has nothing to resolve (--no-deps); it holds setuptools, so the editable
# install needs no network (--no-build-isolation).
$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/bin/pip
	@echo "Installing into $(VENV) (1.6 GB, a minute or two)"
	@$(PIP) install --no-deps -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.extra-%: $(VENV)/.installed
	@echo "Installing the extra $* into $(VENV)"
	@$(PIP) install --no-build-isolation -c requirements.lock -e '.[$*]'
	@touch $@
