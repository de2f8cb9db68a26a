# The few verbs that everyone uses, CI included. Everything is installed into .venv beside this file.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Half the build time of a cold build is other people's crates: one debug build serves develop, tests and lints alike.
RUST_SOURCES := Cargo.toml Cargo.lock build.rs $(shell find src proto -type f)
# What `make soak` runs: everything that has a larger size than in `make test`.
SOAK ?= tests/faults tests/fuzz tests/native tests/property tests/stores tests/embedded/test_control.py tests/server/test_limits.py
# How long `make fuzz` gives each target.
SECONDS ?= 60
FUZZ := segment deletes metadata
# Tests side by side, each worker with servers of its own: about 3 GiB each.
WORKERS ?= 3
# Quiet, and without looking for newer versions of pip itself.
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_QUIET = 1
# The interpreter that pyo3 asks for its settings: the same for maturin and for cargo, or each would rebuild pyo3.
export PYO3_PYTHON = $(CURDIR)/$(BIN)/python
export VIRTUAL_ENV = $(CURDIR)/$(VENV)

.DEFAULT_GOAL := help
.PHONY: help demo test test-rust test-python lint lint-rust lint-python bench fuzz soak types wheel develop format clean

help:  ## show what there is
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo $(VENV)/.debug  ## back up real vectors, lose them, get them back (the first build takes some minutes)
	@$(BIN)/python examples/quick_start.py

test: test-rust test-python  ## all tests: Rust units, then everything on Milvus Lite and Milvus 2.3.5

test-rust:
	cargo test --quiet

test-python: develop
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --reruns 1 -raR

lint: lint-rust lint-python  ## formatting, lints and types of both languages (-j 2: clippy while packages are fetched)

lint-rust:
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --quiet --all-targets -- -D warnings
	@# With this crate's profiles, so that its builds of dependencies serve.
	cargo clippy --quiet --config Cargo.toml --manifest-path fuzz/Cargo.toml --locked --target-dir target -- -D warnings

lint-python: develop
	cargo clippy --quiet --lib --features python -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict python/milvault
	cd python && ../$(BIN)/python -m mypy.stubtest milvault._core

format:  ## rewrite both languages' files in the project's style
	cargo fmt
	cargo fmt --manifest-path fuzz/Cargo.toml
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

bench: $(VENV)/.test  ## whole runs beside what one would otherwise use, as ratios (release build; takes about an hour)
	@rm -f $(VENV)/.debug
	$(BIN)/maturin develop --quiet --release
	$(BIN)/python -m benches.compare $(BENCH)
	$(BIN)/python -m benches.compare.files
	$(BIN)/python -m benches.compare.imports

fuzz:  ## arbitrary bytes for the readers of Milvus's own files, guided by coverage (SECONDS=60 for each target)
	@for target in $(FUZZ); do \
		fuzz/run $$target -max_total_time=$(SECONDS) fuzz/corpus/$$target fuzz/seeds/$$target || exit 1; \
	done

soak: develop  ## everything slow at full size: kills, flips, mutations, limits, every store, fuzzing (hours)
	MILVAULT_SOAK=1 $(BIN)/python -m pytest $(SOAK) -s
	$(MAKE) fuzz SECONDS=1800

types: develop  ## docs/types.md from what really happens on each server (a few minutes)
	MILVAULT_WRITE_TYPES=1 $(BIN)/python -m pytest tests/server/test_types.py -q

wheel: $(VENV)/.build  ## a wheel for this platform, in dist/
	$(BIN)/maturin build --release --out dist

develop: $(VENV)/.test $(VENV)/.debug  ## .venv with everything, and the extension built into it

clean:  ## forget the environment and the builds
	rm -rf $(VENV) target dist python/milvault/_core*.so

# Environments: each step adds to the one before, and happens again when pyproject.toml changes.

$(VENV)/.build: pyproject.toml
	@echo "installing into $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install 'maturin>=1.9,<2' 'setuptools<81'
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.build
	@$(BIN)/python .ci/requirements.py lite cli > $(VENV)/demo.txt
	@$(BIN)/python -m pip install -r $(VENV)/demo.txt scikit-learn
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.build
	@$(BIN)/python .ci/requirements.py test dev > $(VENV)/test.txt
	@$(BIN)/python -m pip install -r $(VENV)/test.txt
	@touch $@ $(VENV)/.demo

# The debug build; `bench` puts a release build in its place and forgets this stamp.
$(VENV)/.debug: $(VENV)/.build pyproject.toml $(RUST_SOURCES)
	@echo "building the extension …"
	@$(BIN)/maturin develop --quiet
	@touch $@
