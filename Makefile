# Everything that needs set-up runs through .venv, which `make install` fills and the other targets ask for.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test lint types protos compose-up compose-down clean

install: $(STAMP)

$(STAMP): requirements/cpu.lock requirements/dev.lock pyproject.toml scripts/install
	PYTHON=$(PYTHON) scripts/install $(VENV) cpu dev
	$(BIN)/python -m pip --quiet --disable-pip-version-check install --no-deps --editable .
	@touch $@

demo: $(STAMP)  ## The whole method on this machine; FLAGS="--resume" or "--fresh" after an earlier one.
	$(BIN)/vision-sr1 demo $(FLAGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(FLAGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

protos: $(STAMP)  ## Rebuild vision_sr1/v1 from proto/.
	PYTHON=$(BIN)/python scripts/build_protos

COMPOSE := docker compose --file deploy/compose.yaml

compose-up: deploy/.env  ## The demo in containers; PROFILE=gpu for a run on GPUs, FLAGS="--scale actor=2".
	COMPOSE_PROFILES=$(or $(PROFILE),cpu) $(COMPOSE) up --build --detach $(FLAGS)

compose-down:  ## Stops the containers; FLAGS=--volumes deletes the run too.
	COMPOSE_PROFILES=cpu,gpu $(COMPOSE) down $(FLAGS)

deploy/.env: | deploy/.env.example
	@umask 077; while IFS= read -r line; do \
	  case "$$line" in *=) echo "$$line$$(openssl rand -hex 24)";; *) echo "$$line";; esac; \
	done < deploy/.env.example > $@
	@echo "wrote $@ with new secrets"

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache
