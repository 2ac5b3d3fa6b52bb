# Only dispatches; every target is one command you can also type.

PYTHON ?= .venv/bin/python

.PHONY: install check lint test proto docs bench bench-page differential simulation fuzzing

install:
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]'

# What to run before every commit: under two minutes.
check: lint
	$(PYTHON) -m pytest $(wildcard tests/tidy tests/unit tests/property tests/traces tests/fuzz)

lint:
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports

test:
	$(PYTHON) -m pytest

proto:
	$(PYTHON) tools/generate_proto.py

docs:
	$(PYTHON) tools/generate_reference.py

bench:
	$(PYTHON) -m benchmarks

# The page's figures: on a machine that does nothing else, with 24 GiB of memory and 30 GB of disk.
bench-page:
	$(PYTHON) -m benchmarks all --keys 10000,1000000,10000000 --into docs/benchmarks/results.json --page docs/benchmarks.md

simulation:
	$(PYTHON) -m simulation --seeds 1..200 --processes 2 --shrink

differential:
	$(PYTHON) -m differential

fuzzing:
	$(PYTHON) -m fuzzing --processes 2
