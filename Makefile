# The same words a person and CI use. Everything lives in .venv; `make clean` removes it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# where it is set, as in many containers, every process of the gate compiles all that it imports
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run compare study trial test test-pythons test-python fault-injection integrations full-size-check lint types site docs install lock clean

## run: from nothing to a finished rehearsal of TinyLlama v1.1 Math&Code
run: $(VENV)/run.stamp
	$(BIN)/curriculum run v1.1-math-code

## compare: beside `make run`'s variant the plain one and the cooldown's control (with the extra `zh` also the Chinese
## variant), then their differences and the checks of the recipe; fails unless every required one is shown
compare: run
	$(BIN)/curriculum run v1.1
	$(BIN)/curriculum run v1.1-math-code-control
	if $(BIN)/python -c 'import tencentcloud' 2>/dev/null; then \
	  $(BIN)/curriculum run v1.1-chinese && \
	  $(BIN)/curriculum compare v1.1 v1.1-math-code v1.1-math-code-control v1.1-chinese --check; \
	else \
	  $(BIN)/curriculum compare v1.1 v1.1-math-code v1.1-math-code-control --check; \
	fi

## study: after `make run`'s trunk the thirty runs of studies/domains.yaml, what they show of the mixture, and its page; about
## fifteen minutes more on two cores
study: run
	$(BIN)/curriculum run domains
	$(BIN)/curriculum decide domains
	$(BIN)/curriculum report domains

## trial: a question asked of small models on two trunks, from training to verdicts; some ten minutes of two cores
trial: $(VENV)/run.stamp
	$(BIN)/python -m bench.trial

## test: the whole gate, and how long it took; with `FAST=1` without the tests that start processes. What needs one
## processor alone runs two at a time
FAST  ?=
STARTED := $(shell date +%s)
test: $(VENV)/dev.stamp
	+$(MAKE) --no-print-directory -j 2 --output-sync=target types lint site $(if $(FAST),,test-pythons)
	$(BIN)/pytest -n 2 --dist worksteal $(if $(FAST),-m "not processes and not slow")
	@echo "lint, types, site and tests: $$(( $$(date +%s) - $(STARTED) )) seconds"

## test-pythons: the torch-free tests of plan, config and compiler on every Python 3.11 to 3.13 of this machine (on PATH or
## in pyenv) but the one of .venv; a small environment for each is made once
PYTHONS = $(shell for v in 3.11 3.12 3.13; do \
  for python in python$$v $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$v.*/bin/python; do \
    if $$python -c 0 2>/dev/null; then echo $$python; break; fi; done; done)
TORCH_FREE := $(addprefix tests/curriculum/, test_units.py fs/test_files.py config/test_entries.py config/test_entry_refusals.py config/test_shipped_files.py \
  config/test_yaml.py plan/test_golden_steps.py plan/test_learning_rate.py compiler/test_branches.py compiler/test_compile.py \
  compiler/test_lineage.py)
test-pythons: $(VENV)/dev.stamp
	@own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); failed=; running=; \
	for python in $(PYTHONS); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])') || continue; \
	  [ $$version != $$own ] || continue; \
	  $(MAKE) --no-print-directory test-python INTERPRETER=$$python VERSION=$$version & running="$$running $$!"; \
	done; \
	for job in $$running; do wait $$job || failed=yes; done; [ -z "$$failed" ]

## fault-injection: faults by the thousand (docs/reliability.md), two figures at a time: some 40 minutes of two cores, with
## `TRIALS=0.25` twelve; `SIZE=long` goes on for a day, `ONLY=R1,R3 SEED=5` repeats two figures exactly
SIZE      ?= gate
TRIALS    ?= 1
PROCESSES ?= 2
fault-injection: $(VENV)/dev.stamp
	$(BIN)/python -m tests.fault_injection --size $(SIZE) --trials $(TRIALS) --processes $(PROCESSES) --only "$(ONLY)" $(if $(SEED),--seed $(SEED))

## integrations: the plan inside other trainers, each from the package index in .venv-integrations, and the table of
## docs/how-to/any-trainer.md; `ONLY=lightning,composer` runs two of them
integrations: $(VENV)/dev.stamp
	$(BIN)/python -m tests.integrations --only "$(ONLY)"

## full-size-check: tinyllama-1.1b in fp32 on this machine without a GPU: trained, saved, killed, resumed, exported and
## measured by transformers; some fifteen minutes, 20 GB of memory and 31 GB of disk
full-size-check: $(VENV)/dev.stamp
	$(BIN)/python -m bench.full_size

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/dev.stamp
	$(BIN)/mypy

## site: the documentation as a site in build/site; a dead link fails
site: $(VENV)/dev.stamp
	$(BIN)/zensical build --strict

## docs: write what is generated: schemas, key tables, the reference of the commands, pictures
docs: $(VENV)/run.stamp
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/draw_order.py

install: $(VENV)/run.stamp

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "curriculum needs Python 3.11, 3.12 or 3.13")'
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

# One interpreter of `test-pythons`.
test-python: build/python-$(VERSION).stamp
	@echo "Python $(VERSION):"; build/python-$(VERSION)/bin/python -m pytest -q -p no:cacheprovider -m "not processes and not slow" $(TORCH_FREE)

build/python-$(VERSION).stamp: locked/core.txt
	mkdir -p build
	$(INTERPRETER) -m venv --clear build/python-$(VERSION)
	build/python-$(VERSION)/bin/python -m pip install --quiet --require-hashes --no-deps --requirement locked/core.txt
	touch $@

## lock: rewrite the locked files after a change of pyproject.toml or constraints.txt; needs `uv`. Torch and the GPU
## libraries that only some of its builds need are left out
LOCK := uv pip compile pyproject.toml --quiet --constraint constraints.txt --universal --python-version 3.11.5 \
  --generate-hashes --no-header --no-annotate
CORE := numpy pydantic PyYAML typer rich pytest hypothesis
lock:
	$(LOCK) | awk '/^[a-z0-9]/ {out = /^(torch|triton|nvidia-|cuda-)/} !out' > locked/run.txt
	$(LOCK) --extra dev | awk '/^[a-z0-9]/ {out = /^(torch|triton|nvidia-|cuda-)/} !out' > locked/dev.txt
	printf '%s\n' $(CORE) | uv pip compile - --quiet --constraint constraints.txt --universal --python-version 3.11.5 \
	  --generate-hashes --no-header --no-annotate > locked/core.txt

clean:
	rm -rf $(VENV) .venv-integrations build
