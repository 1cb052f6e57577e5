# Offramp: `make run` shows it working, `make test` tests it. Everything lives in .venv and out/.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test compat lint proto bench up down docs lock audit sbom clean

ARGS ?=
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
kserve_VERSION := 0.21.0
mlserver_VERSION := 1.7.1
TOOLS := uv==0.13.8 pip-audit==2.10.1 cyclonedx-bom==7.5.0
LOCK = out/tools/bin/uv pip compile --quiet --no-config --universal --python-version 3.13 --generate-hashes --no-header --no-annotate
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/.installed-run ## Three tiers and two links on this machine, real inputs, a table and four pictures
	@$(BIN)/offramp run $(ARGS)

test: .venv/.installed-dev ## All tests; what needs Docker or data sets is skipped where they are absent
	@$(BIN)/python -m pytest $(ARGS)

compat: out/compat/kserve/.installed out/compat/mlserver/.installed ## Environments with the clients of others, for their tests

out/compat/%/.installed: | .venv/bin/python
	@echo "installing $*'s client into out/compat/$* …"
	@$(PYTHON) -m venv out/compat/$*
	@out/compat/$*/bin/python -m pip --disable-pip-version-check install --quiet $*==$(or $($*_VERSION),$(error no version of $*))
	@touch $@

lint: .venv/.installed-dev ## Style, types, import contracts, and stubs that match their sources
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@$(BIN)/python deploy/stubs.py --check

proto: .venv/.installed-dev ## Generate services/pb from proto/
	@$(BIN)/python deploy/stubs.py

bench: .venv/.installed-dev ## Benchmarks, side by side with other servers, into out/bench: JSON, a table, plots (20 minutes)
	@$(BIN)/python -m benchmarks $(ARGS)

up: ## The testbed in containers, with Prometheus, and Grafana where its image can be had
	@if docker compose --profile monitoring pull --quiet --policy missing grafana 2>/dev/null; then profile="--profile monitoring"; \
	else echo "Grafana's image cannot be pulled; everything else comes up"; fi; \
	docker compose $$profile up -d --build --wait || { \
	echo "where a port is in use, choose another, e.g. PUBLIC_PORT=8011 make up; .env.example lists them" >&2; exit 1; }

down: ## Stop and remove the containers
	@docker compose --profile monitoring down

docs: .venv/.installed-dev ## Generate the reference pages under docs/ from the code, and the site from all pages
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lock: out/tools/.installed ## Pin all the image installs, with hashes, into deploy/*.lock
	@$(LOCK) --constraints constraints.txt --output-file deploy/requirements.lock pyproject.toml
	@echo 'setuptools>=77' | $(LOCK) --output-file deploy/build.lock -

audit: out/tools/.installed ## Known vulnerabilities of all the image installs
	@$(BIN)/python deploy/audit.py out/tools/bin/pip-audit

sbom: out/tools/.installed out/runtime/.installed ## What the image installs, as CycloneDX JSON: out/sbom.json
	@out/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o out/sbom.json out/runtime/bin/python

out/tools/.installed: | .venv/bin/python
	@echo "installing tools for the supply chain into out/tools …"
	@$(PYTHON) -m venv out/tools
	@out/tools/bin/python -m pip --disable-pip-version-check install --quiet $(TOOLS)
	@touch $@

out/runtime/.installed: deploy/requirements.lock
	@rm -rf out/runtime
	@$(PYTHON) -m venv --without-pip out/runtime
	@$(PYTHON) -m pip --disable-pip-version-check --python out/runtime/bin/python install --quiet --no-deps --require-hashes -r $<
	@touch $@

clean: ## Remove what was built or written here, the virtual environment included
	rm -rf .venv out build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Offramp needs Python 3.11 or newer; none was found"; exit 2; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "this Python has no venv; on Debian or Ubuntu: apt install python3-venv"; exit 2; }

.venv/.installed-run: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing into .venv …"
	@$(PIP) -e '.[testbed]'
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing into .venv, with torch and the tools for tests …"
	@$(PIP) -e '.[testbed,train,dev]'
	@touch $@ .venv/.installed-run
