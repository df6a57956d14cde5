# demo | test | test-libraries | check | bench | fmt | clean. The first use makes .venv; later ones need no network.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.stamp
SOURCES := src tests $(wildcard examples) $(wildcard benchmarks)
PAGES := docs $(wildcard README.md)
# Ray has an environment of its own.
BENCHES := $(sort $(filter-out %/bench_ray.py,$(wildcard benchmarks/bench_*.py)))

.PHONY: demo test test-libraries test-ray check lint types arrows doctests fmt clean
.PHONY: bench bench-sync bench-faults bench-decide bench-own-loop bench-knowledge bench-ray

demo: $(READY)
	$(BIN)/coterie demo

# What starts real processes has the machine to itself.
test: $(READY)
	$(BIN)/python -m pytest tests -q -n 2 -m "not processes" --ignore tests/libraries
	$(BIN)/python -m pytest tests -q -m processes --ignore tests/libraries

# Models of other libraries, in an environment of its own: .ci/libraries.
LIBRARIES ?= .venv-libraries
test-libraries:
	test -x $(LIBRARIES)/bin/python || $(PYTHON) -m venv $(LIBRARIES)
	$(LIBRARIES)/bin/python -m pip install --quiet -c constraints.txt setuptools
	$(LIBRARIES)/bin/python -m pip install --quiet -c constraints.txt -c constraints-libraries.txt --no-build-isolation -e ".[dev,libraries]"
	KERAS_BACKEND=torch HF_HUB_OFFLINE=1 $(LIBRARIES)/bin/python -m pytest tests/libraries -q -rs

# With Ray, in an environment of its own; its tests skip without it.
RAY_VENV ?= .venv-ray
test-ray: $(RAY_VENV)/.stamp
	$(RAY_VENV)/bin/python -m pytest tests/faults/test_ray.py tests/e2e/test_ray.py -q --durations=5

check: lint types arrows doctests

lint: $(READY)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(READY)
	$(BIN)/mypy

arrows: $(READY)
	$(BIN)/lint-imports --no-logo

doctests: $(READY)
	$(BIN)/python -m pytest -q --doctest-modules --doctest-glob="*.md" src $(PAGES)

bench: $(READY)
	@$(if $(BENCHES),,echo "no benchmarks/bench_*.py yet: nothing to run")
	@set -e; for script in $(BENCHES); do echo "== $$script"; $(BIN)/python $$script; done

# Both arms on a bed of slow links: needs root, and PEERS, a python that has torchft, for that arm.
PEERS ?= $(BIN)/python
bench-sync: $(READY)
	$(BIN)/python benchmarks/bench_codecs.py
	$(BIN)/python benchmarks/bench_overhead.py
	$(BIN)/python benchmarks/bench_overlap.py
	$(BIN)/python benchmarks/bench_slow.py
	$(BIN)/python benchmarks/bench_sync.py --seeds 3 --mbit 10 --mbit 100 --peers-python $(PEERS)

# Faults put into real runs, and into those of peers; PEERS as above. Cuts and slow links need root.
bench-faults: $(READY)
	$(BIN)/python benchmarks/bench_faults.py --peers-python $(PEERS)

# A script's own loop on 4 : 2 : 1 beside DDP, and alone: needs root, and the machine for itself.
bench-own-loop: $(READY)
	$(BIN)/python benchmarks/bench_own_loop.py

# Decisions, in cells of bandwidth × skew × model: needs root, and the machine for itself.
bench-decide: $(READY)
	$(BIN)/python benchmarks/bench_decide.py

# What sharing brings, on real images in COTERIE_DATA; a run that was broken off goes on.
bench-knowledge: $(READY)
	$(BIN)/python benchmarks/bench_knowledge.py --parts grouping --seeds 10 --resume
	$(BIN)/python benchmarks/bench_knowledge.py --seeds 5 --resume

# Agents on a cluster of Ray, in namespaces, beside what Ray itself does: needs root.
bench-ray: $(RAY_VENV)/.stamp
	$(RAY_VENV)/bin/python benchmarks/bench_ray.py

fmt: $(READY)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf $(VENV) $(LIBRARIES) $(RAY_VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The build tool comes first and pinned, so that an environment once made can be refreshed offline.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, found %d.%d: set PYTHON=" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $@

$(RAY_VENV)/.stamp: pyproject.toml constraints.txt
	test -x $(RAY_VENV)/bin/python || $(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install --quiet -c constraints.txt setuptools
	$(RAY_VENV)/bin/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev,ray]"
	touch $@
