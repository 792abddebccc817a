# Everything runs from .venv, which `make setup` builds once and every other target waits for.
# Wanted of the machine: Python 3.11 or newer, and make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PORT ?= 8000
ARGS ?=

VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin

# torch stands apart from requirements.lock, because which build fits depends on the machine.
TORCH := torch==2.13.0
GPU_LIBRARIES := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti \
	nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
	nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

.PHONY: help setup demo serve test fuzz lint check format docs lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1mmake %-8s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Build .venv with everything pinned (the other targets do it by themselves)
	@echo "$(VENV) is ready"

$(STAMP): requirements.lock pyproject.toml
	@python=$$(for name in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
		"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done) || { \
		echo "Python 3.11 or newer is needed; none was found. Name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	[ -x $(RUN)/python ] && $(RUN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "Building $(VENV) with $$python"; \
		"$$python" -m venv --clear $(VENV) || { \
			echo "The venv module of $$python is incomplete; on Debian and Ubuntu install python3-venv." >&2; exit 1; }; }
	@echo "Installing torch and the locked dependencies (some minutes the first time)"
	@$(RUN)/pip install --quiet --no-deps $(TORCH)
	@$(RUN)/pip install --quiet --no-deps --require-hashes -r requirements.lock
	@# A build with CUDA does not load without its libraries, which --no-deps left out.
	@$(RUN)/python -W ignore -c 'import torch' 2>/dev/null || $(RUN)/pip install --quiet $(TORCH)
	@$(RUN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## Make pictures with and without the filter; verdicts on the screen, files in out/demo/
	@$(RUN)/seemly demo $(ARGS)

serve: $(STAMP) ## Serve on PORT (default 8000) until Ctrl-C: Redis, gateway and worker
	@PORT=$(PORT) exec $(RUN)/seemly serve $(ARGS)

test: $(STAMP) ## Run the tests
	$(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

fuzz: $(STAMP) ## Ask a running stack 20,000 things its description allows or not; ARGS="--seed N" repeats a run
	@$(RUN)/python -m tests.fuzz $(ARGS)

lint: $(STAMP) ## Check format, lint, types and import rules
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports

check: lint test ## Everything a change must pass: lint and test

format: $(STAMP) ## Put the sources in shape
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

docs: $(STAMP) ## Write docs/api.md from the OpenAPI document, .env.example from the settings, the dashboard
	@$(RUN)/python -m lab.reference
	@$(RUN)/python -m lab.environment
	@$(RUN)/python -m lab.dashboard

# What images hold: whatever a setting of theirs can ask for.
GATEWAY_EXTRAS := tracing s3 provenance
WORKER_EXTRAS := $(GATEWAY_EXTRAS) gpu detectors

COMPILE := uv pip compile --python-version 3.11 --no-header --no-annotate --generate-hashes --quiet
lock: ## Resolve the dependencies anew into requirements.lock, and those of the images into deploy/locks (needs uv)
	@command -v uv >/dev/null || { echo "This target needs uv: https://docs.astral.sh/uv/" >&2; exit 1; }
	$(COMPILE) pyproject.toml --extra gpu --extra dev --universal \
		$(addprefix --no-emit-package ,$(GPU_LIBRARIES)) --output-file requirements.lock
	$(COMPILE) pyproject.toml $(addprefix --extra ,$(GATEWAY_EXTRAS)) --universal -c requirements.lock \
		--output-file deploy/locks/gateway.lock
	$(COMPILE) pyproject.toml $(addprefix --extra ,$(WORKER_EXTRAS)) --universal -c requirements.lock \
		$(addprefix --no-emit-package ,$(GPU_LIBRARIES)) --output-file deploy/locks/worker.lock
	echo '$(TORCH)' | $(COMPILE) - --universal -c requirements.lock --output-file deploy/locks/torch-cuda.lock
	echo 'setuptools>=77' | $(COMPILE) - --universal --output-file deploy/locks/build.lock

clean: ## Remove .venv and what the tools keep; data/ and out/ stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
