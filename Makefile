# `make demo` and `make test` do all their own set-up: a virtual environment in .venv, made from requirements.lock.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

# Some machines forbid Python to keep what it has compiled; each of the many processes here would then compile all of
# its 1,600 modules anew, which takes longer than most tests.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test verify style types security audit pytest servers bench lock setup format dashboards kustomize

setup: $(STAMP)

# Current as long as the lock and the project's own metadata have not changed since.
$(STAMP): requirements.lock pyproject.toml deploy/setup.sh
	@PYTHON=$(PYTHON) bash deploy/setup.sh $(VENV)
	@touch $@

demo: setup
	@$(BIN)/overspill demo --report demo-report.html

verify: style types security

style: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

# Ruff's S rules, in `style`, are most of it.
security: setup
	@$(BIN)/python -m deploy.lock
	@$(BIN)/bandit --quiet --recursive --severity-level medium --configfile pyproject.toml scheduler policies clusters

# What is known by now of the locked versions, from a database on the network.
audit: setup
	@$(BIN)/uv tool run pip-audit --require-hashes --disable-pip -r requirements.lock

types: setup
	@$(BIN)/mypy

# Real servers for the wire tests, where they can be had; quick when they are there.
servers: setup
	@bash deploy/test-servers.sh $(VENV)/servers

# Types are checked beside the tests: on a machine that is new that takes longer than a minute.
test: style servers
	@$(MAKE) --no-print-directory -j 2 types pytest

# A worker more than there are cores: tests over HTTP wait a good part of their time.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))
# Tests make many small databases and wait for the disk at each commit; in memory they do not, where there is enough of it.
pytest: setup
	@room=$$(df --output=avail -k /dev/shm 2>/dev/null | tail -1); \
	scratch=$$([ "$${room:-0}" -gt 4000000 ] && mktemp -d -p /dev/shm || mktemp -d); chmod 711 "$$scratch"; trap 'rm -rf "$$scratch"' EXIT; \
	TMPDIR=$$scratch $(BIN)/python -m pytest -n $(WORKERS) --durations 25 --dist loadgroup tests

bench: setup
	@$(BIN)/python -m tests.bench

lock: setup
	@$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 --universal --extra dev --output-file requirements.lock pyproject.toml

dashboards: setup
	@$(BIN)/python -m deploy.grafana.build
	@$(MAKE) --no-print-directory kustomize

# The chart's copies of the other folders of deploy/; and the base for those without Helm, which is what it makes by default.
kustomize: setup
	@$(BIN)/python deploy/helm/render.py 2>/dev/null

format: setup
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .
