# `make demo` and `make test` need Python 3.11 or newer and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Another torch than that of constraints.txt (make test TORCH=2.11.0) has an environment of its own, of about 6 GB: what is
# installed by version alone is the build for CUDA, which runs without a GPU as well.
TORCH ?=
TORCHES ?= 2.11.0 2.15.0
VENV := .venv$(if $(TORCH),-torch-$(TORCH))
BIN := $(VENV)/bin
# With the Python's version, so that another one than the environment has is found out.
STAMP := $(VENV)/.installed$(if $(TORCH),-$(shell $(PYTHON) -c 'import platform; print(platform.python_version())'))
DEMO_STAMP := $(STAMP)-demo
# What torch itself asks for in certain versions goes by what it asks.
PINS := $(if $(TORCH),$(VENV)/constraints.txt,constraints.txt)
EXTRAS := dev,demo,bench,docs,lightning,huggingface,optuna,trackers,notebook

.PHONY: help demo test test-all test-clusters test-torch-versions tested chaos check wheel docs format bench clean

help:
	@echo "make demo    train three different models at once on two workers"
	@echo "make test    run the tests that take minutes together"
	@echo "make test-all  run all tests, for about an hour"
	@echo "make test-clusters  run some of those on several hosts, under SLURM, mpirun and Ray, for ten minutes"
	@echo "make test TORCH=2.11.0  with another torch; PYTHON=/path/to/python3.12 with another Python"
	@echo "make test-torch-versions  run them with the oldest and newest torch, and write docs/reference/tested-with.md"
	@echo "make chaos   strike runs at random moments, 160 times; each must end as if nothing had happened"
	@echo "make check   run the linters, the type checker and the test of the layers; build the docs"
	@echo "make wheel   build the package, install it into an empty environment, and run it there"
	@echo "make docs    build the docs into site/, with every warning an error"
	@echo "make format  format the code and the pages"
	@echo "make bench   run the benchmarks"
	@echo "make clean   remove what make and the tests made"

# torch first, and exactly: an open range would take a build for another machine, gigabytes larger.
$(DEMO_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Motet needs Python 3.11 or newer, found: $$($(PYTHON) --version). Say which: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifneq ($(TORCH),)
	@test "$$($(PYTHON) --version)" = "$$($(BIN)/python --version)" \
	  || { echo "$(VENV) has $$($(BIN)/python --version), not $$($(PYTHON) --version): remove it first"; exit 1; }
	{ grep -vE '^(torch|setuptools)==' constraints.txt; echo 'torch==$(TORCH)'; } > $(PINS)
endif
	@echo "Installing torch, then Motet and what the demo needs: about two minutes"
	$(BIN)/python -m pip install --quiet -c $(PINS) "torch==$(or $(TORCH),$$(sed -n 's/^torch==//p' constraints.txt))"
	$(BIN)/python -m pip install --quiet -c $(PINS) -e ".[demo]"
	touch $(DEMO_STAMP)

$(STAMP): $(DEMO_STAMP)
	@echo "Installing what the tests need: frameworks, trackers, linters"
	$(BIN)/python -m pip install --quiet -c $(PINS) -e ".[$(EXTRAS)]"
	touch $(STAMP)

demo: $(DEMO_STAMP)
	$(BIN)/motet run examples/demo.yaml --nproc-per-node=2

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest

# Hosts are network namespaces (root, iproute2); what is not installed is skipped, with the reason.
test-clusters: $(STAMP)
	$(BIN)/python -m pytest -m in_ci -rs --durations=0 --durations-min=5 tests/clusters

# Some 20 minutes: 2 to install each, and 6 GB of disk.
test-torch-versions:
	for torch in $(TORCHES); do $(MAKE) --no-print-directory tested TORCH=$$torch || exit 1; done

tested: $(STAMP)
	$(BIN)/python -m tests.versions --write docs/reference/tested-with.md

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/tidy.py --check
	$(BIN)/mypy --strict src
	$(BIN)/python -m pytest -q tests/test_layers.py
	$(MAKE) --no-print-directory docs

wheel: $(STAMP)
	.ci/wheel $(BIN)/python

# The variable silences an announcement of Material's; not --quiet, which hides warnings from --strict as well.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/tidy.py

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf .venv .venv-torch-* build dist runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
