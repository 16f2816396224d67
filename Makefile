# The same words a person and CI use. Everything lives in .venv; `make clean` removes it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: run compare test fault-injection lint types docs install lock clean

## run: from nothing to a finished rehearsal of TinyLlama v1.1 Math&Code
run: $(VENV)/run.stamp
	$(BIN)/curriculum run v1.1-math-code

## compare: beside `make run`'s variant the plain one and the cooldown's control (with the extra `zh` also the Chinese
## variant), then their differences and the marks of the paper's figure; fails when one that must show does not
compare: run
	$(BIN)/curriculum run v1.1
	$(BIN)/curriculum run v1.1-math-code-control
	if $(BIN)/python -c 'import tencentcloud' 2>/dev/null; then \
	  $(BIN)/curriculum run v1.1-chinese && \
	  $(BIN)/curriculum compare v1.1 v1.1-math-code v1.1-math-code-control v1.1-chinese --check; \
	else \
	  $(BIN)/curriculum compare v1.1 v1.1-math-code v1.1-math-code-control --check; \
	fi

## test: the whole gate, and how long it took; with `FAST=1` without the tests that start processes
FAST  ?=
BEGUN := $(shell date +%s)
test: lint types
	$(BIN)/pytest -n 2 --dist worksteal $(if $(FAST),-m "not processes and not slow")
	@echo "lint, types and tests: $$(( $$(date +%s) - $(BEGUN) )) seconds"

## fault-injection: faults by the thousand (docs/reliability.md), two figures at a time: some 40 minutes of two cores, with
## `TRIALS=0.25` twelve; `SIZE=long` goes on for a day, `ONLY=R1,R3 SEED=5` repeats two figures exactly
SIZE      ?= gate
TRIALS    ?= 1
PROCESSES ?= 2
fault-injection: $(VENV)/dev.stamp
	$(BIN)/python -m tests.fault_injection --size $(SIZE) --trials $(TRIALS) --processes $(PROCESSES) --only "$(ONLY)" $(if $(SEED),--seed $(SEED))

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/dev.stamp
	$(BIN)/mypy

## docs: write what is generated: schemas, key tables, the reference of the commands, pictures
docs: $(VENV)/run.stamp
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/draw_order.py

install: $(VENV)/run.stamp

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "curriculum needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# What the locked files name is installed by digest alone. torch follows by version: its build, and what that needs,
# differ from one package index to the next, and a build that is there already is kept.
$(VENV)/run.stamp: $(VENV)/bin/python locked/run.txt constraints.txt pyproject.toml
	$(BIN)/pip install --quiet --require-hashes --no-deps --requirement locked/run.txt
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp locked/dev.txt
	$(BIN)/pip install --quiet --require-hashes --no-deps --requirement locked/dev.txt
	touch $@

## lock: write the locked files anew after a change of pyproject.toml or constraints.txt; needs `uv`. Torch and the GPU
## libraries that only some of its builds need are left out
LOCK := uv pip compile pyproject.toml --quiet --constraint constraints.txt --universal --python-version 3.11 \
  --generate-hashes --no-header --no-annotate
lock:
	$(LOCK) | awk '/^[a-z0-9]/ {out = /^(torch|triton|nvidia-|cuda-)/} !out' > locked/run.txt
	$(LOCK) --extra dev | awk '/^[a-z0-9]/ {out = /^(torch|triton|nvidia-|cuda-)/} !out' > locked/dev.txt

clean:
	rm -rf $(VENV)
