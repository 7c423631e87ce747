# `make demo` and `make test` need Python 3.11 or newer and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := dev,demo,bench,docs,lightning,huggingface,optuna,trackers,notebook

.PHONY: help demo test test-all chaos check docs format bench clean

help:
	@echo "make demo    train three different models at once on two workers"
	@echo "make test    run the tests that take minutes together"
	@echo "make test-all  run all tests, for about half an hour"
	@echo "make chaos   strike runs at random moments, 120 times; each must end as if nothing had happened"
	@echo "make check   run the linters, the type checker and the test of the layers; build the docs"
	@echo "make docs    build the docs into site/, with every warning an error"
	@echo "make format  format the code"
	@echo "make bench   run the benchmarks"
	@echo "make clean   remove what make and the tests made"

# torch first, and exactly: an open range would take a build for another machine, gigabytes larger.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Motet needs Python 3.11 or newer, found: $$($(PYTHON) --version). Say which: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/motet run examples/demo.yaml --nproc-per-node=2

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/python -m pytest -q tests/test_layers.py
	$(MAKE) --no-print-directory docs

# The variable silences an announcement of Material's; not --quiet, which hides warnings from --strict as well.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) build dist runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
