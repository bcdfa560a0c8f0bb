# `make demo` and `make test` need Python 3.11, make and a C compiler; everything else is installed into .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Numbers of tests must not depend on the machine: no telemetry, no network, quiet logs.
TEST_ENV := DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false HF_HUB_OFFLINE=1

# Where `make server` listens (on loopback), keeps its database, and which store its flow runs work on.
PORT ?= 4200
STORE ?= $(or $(MEDSAM3_STORE),medsam3-store)

.PHONY: demo test check test-long lint format types docs full weights server clean

demo: $(VENV)/.installed
	$(BIN)/medsam3 demo

test: $(VENV)/.installed-test lint types
	$(TEST_ENV) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not gpu"

check: $(VENV)/.installed-test lint types
	$(TEST_ENV) $(BIN)/python -m pytest --numprocesses 2 --quiet -m "not slow and not gpu" tests/test_architecture.py tests/core tests/storage

test-long: $(VENV)/.installed-test
	$(TEST_ENV) $(BIN)/python -m pytest -m "not gpu"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed
	$(BIN)/python -m flows.cli.reference

types: $(VENV)/.installed-test
	$(BIN)/mypy

full: $(VENV)/.installed
	$(BIN)/python -m benchmarks.full

# The small weights once more, from their configurations: some hours on two cores.
weights: $(VENV)/.installed
	for config in tiny-base tiny-medical-start tiny-medical-middle tiny-medical-further tiny-medical-later tiny-medical-long tiny-medical-cooled; do $(BIN)/medsam3 train $$config --store $(STORE) || exit 1; done
	for config in tiny-medical-paired tiny-medical-augmented tiny-medical-told tiny-medical; do $(BIN)/torchrun --nproc_per_node 2 -m flows train $$config --store $(STORE) || exit 1; done

server: $(VENV)/.installed
	$(BIN)/python -m flows.service.server --port $(PORT) --home .prefect --store $(STORE)

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[all]"
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[test]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .store-demo build *.egg-info
