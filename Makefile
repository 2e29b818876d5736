# kdbench: every verb that people and CI use. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= my-results
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# GPU machines often have no network: whatever Python is there will do; what it lacks is listed.
VISIT   = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m kdbench.terminal.gpu_visit
# One thread per process: results do not depend on the number of cores, and two workers do not spin.
export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help install run report test test-slow test-all campaign check lint type matrix gpu gpu-check gpu-test gpu-bench \
  gpu-acceptance acceptance served costs results docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kdbench needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing kdbench and what it needs into $(VENV) (torch is some GB the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

install: $(STAMP) ## Make .venv and install kdbench into it

run: $(STAMP) ## Train the embedded suite `digits` and show its leaderboard (a few minutes)
	@$(BIN)/kdbench run --suite digits --methods semckd,crd,fitnet,kd,student --pairs all --seeds 1 --out $(OUT)
	@$(BIN)/kdbench report --suite digits --out $(OUT)

report: $(STAMP) ## Leaderboards from the records in OUT (default my-results)
	@$(BIN)/kdbench report --out $(OUT)

test: $(STAMP) ## Run the test suite (minutes; slow and GPU tests are left out)
	@$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(STAMP) ## Run the tests that take long
	@$(BIN)/python -m pytest -m "slow and not gpu"

test-all: test test-slow ## Both

campaign: $(STAMP) ## Faults by the thousand, for half an hour on two idle cores; AREA=kill,disk TRIES=20 run a part
	@$(BIN)/python tests/campaign --area "$(AREA)" --tries "$(TRIES)" --seed "$(SEED)" --only "$(ONLY)"

check: lint test ## Lint, types and tests

lint: $(STAMP) type ## Ruff and mypy, as before every commit (.pre-commit-config.yaml)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(STAMP) ## Mypy alone
	@$(BIN)/mypy

matrix: ## The core of the tests on the oldest and the newest torch, in throw-away environments of some GB
	@PYTHON=$(PYTHON) .ci/matrix

gpu: gpu-check gpu-test gpu-bench gpu-acceptance ## The four below, one after the other; the first that fails ends it

gpu-check: ## On a CUDA device, 2 minutes: does it do what graphs rest on? OUT/gpu-check.json (no network needed, as the next)
	@$(VISIT) check --out $(OUT)

gpu-test: ## Under 10 minutes: the tests that only a GPU can run, OUT/gpu-test.json
	@$(VISIT) test --out $(OUT)

gpu-bench: ## Under 10 minutes: the bench in three precisions, OUT/gpu-bench.json
	@$(VISIT) bench --out $(OUT)

gpu-acceptance: ## Under 10 minutes: 12 epochs of the acceptance on random data and a projection, OUT/gpu-acceptance.json
	@$(VISIT) acceptance --out $(OUT)

acceptance: $(STAMP) ## On an H200-class GPU: 12 methods, 240 epochs on CIFAR-100 in 20 min and 8 GB? Runs it and says so
	@$(BIN)/kdbench teacher train resnet32x4 --suite semckd --device cuda --out $(OUT)/acceptance
	@$(BIN)/python -m kdbench.terminal.acceptance --out $(OUT)/acceptance

served: $(STAMP) ## Try every method on every kind of network, into results/served.md (minutes)
	@$(BIN)/python -m kdbench.bench.served

costs: $(STAMP) ## Measure what every method costs beside its student, into kdbench/suites/cost.csv (10 minutes)
	@$(BIN)/python -m kdbench.bench.costs --repeat 3

results: $(STAMP) ## Make results/digits anew: every method, all pairs, 3 seeds (hours)
	@$(BIN)/kdbench run --suite digits --methods all --pairs all --seeds 3
	@$(BIN)/kdbench report --suite digits

docs: $(STAMP) ## Build the documentation into build/docs, and the leaderboards of results/ into build/docs/leaderboards
	@$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@$(BIN)/kdbench site --results results --out build/docs/leaderboards

clean: ## Remove caches and builds (never results or .venv)
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
