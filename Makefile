# Two commands are enough: `make demo` and `make test`. Python 3.11 or newer must be there.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One environment serves until what it is made of changes.
STAMP := $(VENV)/.made-from-$(shell cat constraints.txt pyproject.toml | cksum | cut -d' ' -f1)

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1

COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
export FLEET_USER ?= $(shell id -u):$(shell id -g)

ON_FLOWER := tests/deploy/test_fleet.py::test_each_message_has_a_fresh_fork_of_the_warm_process

.PHONY: help setup hashes demo test check docs test-slow fleet fleet-run fleet-down test-docker fuzz clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## The environment in .venv
	@cd / && $(abspath $(BIN))/python -c 'import pathlib, sys, deploy; sys.exit(pathlib.Path(deploy.__file__).parents[1] != pathlib.Path("$(CURDIR)"))' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .

$(STAMP):
	@echo "Setting up $(VENV) (once; torch is large, this takes some minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel
	$(if $(TORCH_PIP_OPTIONS),$(BIN)/python -m pip install --quiet $(TORCH_PIP_OPTIONS) --constraint constraints.txt torch torchvision)
	$(BIN)/python -m pip install --quiet $(if $(HASHES),--require-hashes --requirement $(HASHES),--constraint constraints.txt --editable '.[dev]')
	@rm -f $(VENV)/.made-from-* && touch $@

hashes: ## hashes.txt of what an environment is made of; make HASHES=hashes.txt takes nothing else
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report $(VENV)/report.json \
	  --constraint constraints.txt '.[dev]'
	$(BIN)/python deploy/hashes.py < $(VENV)/report.json > hashes.txt

demo: setup ## A fleet on this machine: fleet and server, alone and together, and a page
	@$(BIN)/augflower demo

check: setup ## Style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: setup ## The API reference from the docstrings, in site/api
	$(BIN)/python -m pdoc --docformat numpy --output-directory site/api augflower common client_app server_app deploy

test: check ## All quick tests, and one run over real Flower processes
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -m deploy $(ON_FLOWER)

test-slow: setup ## The long tests, which `make test` leaves out
	$(BIN)/python -m pytest -m 'deploy or slow' --deselect $(ON_FLOWER)

fleet: ## A server and five devices in Docker
	@mkdir -p fleet runs
	$(COMPOSE) up --detach --build

fleet-run: ## A run on them; SETTINGS="--set rounds=20"
	$(COMPOSE) run --rm run $(SETTINGS)

fleet-down: ## Stop them; their volumes stay
	$(COMPOSE) down

test-docker: setup ## The same on a real engine, with everything killed once
	$(BIN)/python -m pytest -m docker

fuzz: setup ## Fuzz the decoder for SECONDS=300; findings come to fuzz/found
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	@mkdir -p fuzz/found fuzz/grown
	$(BIN)/python -m fuzz.decode fuzz/grown fuzz/corpus -artifact_prefix=fuzz/found/ \
	  -max_total_time=$(or $(SECONDS),300) -timeout=10 -rss_limit_mb=2048

clean: ## Remove the environment and caches; runs stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
