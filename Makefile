# Everything that needs set-up runs through .venv, which `make install` fills and the other targets ask for.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n 2 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help install demo quick test test-rest test-all format lint types check protos metrics site coverage compose-up compose-down clean

help:  ## List the targets.
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | sort | column -t -s '|'

install: $(STAMP)  ## Make .venv with the locked versions.

$(STAMP): requirements/cpu.lock requirements/dev.lock pyproject.toml scripts/install
	PYTHON=$(PYTHON) scripts/install $(VENV) cpu dev
	$(BIN)/python -m pip --quiet --disable-pip-version-check install --no-deps --editable .
	@touch $@

demo: $(STAMP)  ## Run the whole method on this machine; FLAGS="--resume" or "--fresh" after an earlier one.
	$(BIN)/vision-sr1 demo $(FLAGS)

quick: $(STAMP)  ## Run the tests that start no engine, each within 5 s (90 s in all).
	VISION_SR1_TESTS_FORK=0 $(PYTEST) $(PARALLEL) -m "not system and not slow and not full" \
	  --timeout 5 -o timeout_func_only=true $(FLAGS)

test: $(STAMP)  ## Run the tests, with every part real at least once (13 minutes).
	$(PYTEST) $(PARALLEL) -m "not full" $(FLAGS)

# Files whose tests have short deadlines.
ALONE := $(addprefix tests/system/test_,fleet.py network.py redis.py soak.py)

test-rest: $(STAMP)  ## Run what `test` leaves out.
	$(PYTEST) $(PARALLEL) -m full $(ALONE:%=--ignore=%) $(FLAGS)
	$(PYTEST) -m full $(ALONE) $(FLAGS)

test-all: test test-rest  ## Run all tests (37 minutes).

format: $(STAMP)  ## Format the code and mend what the linter can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(STAMP)  ## Check format, code and what may import what.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP)  ## Check types.
	$(BIN)/mypy

site: $(STAMP)  ## Build the documentation as a site in build/site; broken links are errors.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet $(FLAGS)

# Packages whose code decides what is trained, lost or misread.
COVERED := learner.objective vision_sr1.credit vision_sr1.streams vision_sr1.prompting
coverage:  ## Run `test`; fail where it covers less than 90 % of objective, streams and parsing, branches included.
	$(MAKE) test FLAGS="$(COVERED:%=--cov=%) --cov-branch --cov-report=term:skip-covered --cov-fail-under=90 $(FLAGS)"

check: format lint types quick  ## Format, lint, types and quick tests: before each commit.

protos: $(STAMP)  ## Rebuild vision_sr1/v1 from proto/.
	PYTHON=$(BIN)/python scripts/build_protos

metrics: $(STAMP)  ## Rebuild docs/metrics.md from learner/metrics/reference.py.
	PYTHON=$(BIN)/python scripts/build_metrics

COMPOSE := docker compose --file deploy/compose.yaml

compose-up: deploy/.env  ## Start the demo in containers; PROFILE=gpu for a run on GPUs, FLAGS="--scale actor=2".
	COMPOSE_PROFILES=$(or $(PROFILE),cpu) $(COMPOSE) up --build --detach $(FLAGS)

compose-down:  ## Stop the containers; FLAGS=--volumes deletes the run too.
	COMPOSE_PROFILES=cpu,gpu $(COMPOSE) down $(FLAGS)

deploy/.env: | deploy/.env.example
	@umask 077; while IFS= read -r line; do \
	  case "$$line" in *=) echo "$$line$$(openssl rand -hex 24)";; *) echo "$$line";; esac; \
	done < deploy/.env.example > $@
	@echo "wrote $@ with new secrets"

clean:  ## Remove builds and caches; .venv and runs stay.
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
