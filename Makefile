# The same words a person and CI use. Everything lives in .venv; `make clean` removes it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: run compare test torture lint types docs install clean

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

## test: the whole gate
test: lint types
	$(BIN)/pytest -n 2

## torture: faults by the thousand (docs/reliability.md), some 25 minutes of two cores; `make torture SIZE=long` goes on for
## a day, `TRIALS=0.1` makes a tenth of the trials, `ONLY=R1,R3 SEED=5` repeats two figures exactly
SIZE   ?= gate
TRIALS ?= 1
torture: $(VENV)/dev.stamp
	$(BIN)/python -m tests.torture --size $(SIZE) --trials $(TRIALS) --only "$(ONLY)" $(if $(SEED),--seed $(SEED))

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

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

# torch first: with the pinned build in place nothing that follows pulls another (and no CUDA packages on a CPU machine).
$(VENV)/run.stamp: $(VENV)/bin/python constraints.txt pyproject.toml
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
