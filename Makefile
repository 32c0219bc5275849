# Every target works on a fresh machine with git, make and Python 3.11: each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
DEMO := out/demo
PORT ?= 50051
METRICS_PORT ?= 9464
SEED ?= 1
PEERS ?= all
CHAOS ?= swaps overload overload-heavy overload-fallback rolling crashes deadlines
COUNT ?= 100000000
QUALITY ?= --dataset complete-journey --fair-by income --cache out/data --out out/quality/complete-journey
TABLES ?= complete-journey=out/quality/complete-journey
BUNDLE ?= $(if $(wildcard out/demo/bundle/manifest.json),out/demo/bundle,out/saturate/bundle)
QUICK_BUNDLE = $(BIN)/equipoise train --dataset complete-journey --cache out/data --quick --out $(BUNDLE)
BUDGET_MS ?= 50
SIZES ?= 1e5,1e6,1e7
# A file's tests share what they set up, so that a file goes to one process.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PROTOS := $(wildcard proto/equipoise/*/*.proto)
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## list the targets
	@echo "Equipoise: personalised recommendations that are provably fair."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the virtual environment .venv with everything in it

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV): about two minutes the first time"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
		--editable '.[training,bench,otel,web,dev]'
	@touch $@

demo: $(READY) ## the whole story on a year of real purchases; leaves out/demo/index.html
	@$(BIN)/python -m bench.demo --out $(DEMO)

serve: $(READY) ## serve the demo's bundle on PORT and METRICS_PORT (50051, 9464) and say how to call it
	@$(BIN)/python -m bench.demo --out $(DEMO) --until events
	@$(BIN)/python -m bench.demo.serving --out $(DEMO) --port $(PORT) --metrics-port $(METRICS_PORT)

test: $(READY) ## run every test
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not alone"
	@$(BIN)/python -m pytest -m alone

test-fast: $(READY) ## run the tests that need no server process and no real data
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

prove-fairness: $(READY) ## fair lists against brute force, other rules and solvers; ten minutes
	@$(BIN)/python -m bench.fairness prove --seed $(SEED) --out out/fairness/proof.json

soak-fairness: $(READY) ## COUNT lists (10^8) and others of every kind, none outside its bounds; Ctrl-C keeps the count
	@$(BIN)/python -m bench.fairness soak --seed $(SEED) --count $(COUNT) --out out/fairness/soak.json

bench-fairness: $(READY) ## the fair stage's time against sorting, growth and start, each with its goal
	@$(BIN)/python -m bench.fairness speed --out out/fairness/speed.json

bench-serving: $(READY) ## what a list costs in a live server, where its time goes, and what other servers take; PEERS=a,b for some, PEERS= for none
	@$(BIN)/python -m bench.serving --peers '$(PEERS)' --seed $(SEED) --out out/serving/cost.json

serving-evidence: $(READY) ## make docs/performance.md of what bench-serving left in out/serving
	@$(BIN)/python -m bench.serving evidence

bench-training: $(READY) ## train on made-up shops of SIZES (10^5, 10^6, 10^7) events: time by part, memory, growth, goals; goes on where it was ended
	@$(BIN)/python -m training.scale --sizes '$(SIZES)' --out out/training/scale.json

bench-retrieval: $(READY) ## candidates from catalogues of 2*10^4, 2*10^5 and 10^6 items: recall against exact search, time of a list
	@$(BIN)/python -m training.retrieval --out out/training/retrieval.json

saturate: $(READY) ## the highest rate that a server takes with p99 within BUDGET_MS, and what comes beyond; BUNDLE, else the demo's, else a quick one
	@test -d $(BUNDLE) || $(QUICK_BUNDLE)
	@$(BIN)/python -m bench.saturate --bundle $(BUNDLE) --budget-ms $(BUDGET_MS) --out out/saturate

gate-selftest: $(READY) ## does the gate err as seldom as it says, and see faults that are planted? Simulation, then real servers of BUNDLE
	@$(BIN)/python -m bench.gate.selftest --seed $(SEED)
	@test -d $(BUNDLE) || $(QUICK_BUNDLE)
	@$(BIN)/python -m bench.gate_trial --bundle $(BUNDLE) --seed $(SEED) --out out/gate-selftest \
		--data=--dataset --data=complete-journey --data=--cache --data=out/data

chaos: $(READY) ## releases exchanged, overload, restarts, kills, deadlines, each with pass marks; 20 minutes
	@for run in $(CHAOS); do \
		$(BIN)/python -m bench.chaos $$run --out out/chaos/$$run.json || exit 1; done

chaos-evidence: $(READY) ## make docs/reliability.md of what chaos left in out/chaos
	@$(BIN)/python -m bench.chaos evidence

fairness-tables: $(READY) ## the KDD 2019 simulation with the exact floors beside it, and FA*IR's tables
	@$(BIN)/python -m bench.fairness tables --seed $(SEED) --out out/fairness/tables.json

mutants: $(READY) ## plant faults in the fair stage and see whether its tests notice; up to an hour
	@$(BIN)/python -c 'import cosmic_ray' 2>/dev/null || $(BIN)/python -m pip install \
		--disable-pip-version-check --quiet --constraint constraints.txt --editable '.[mutants]'
	@$(BIN)/python -m bench.fairness mutants --out out/fairness/mutants.json

fairness-evidence: $(READY) ## make docs/fairness-evidence.md of what these commands left in out/fairness
	@$(BIN)/python -m bench.fairness evidence

test-bounds: $(READY) ## the fair stage's tests and the short proof with every array index checked
	@NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(CURDIR)/out/fairness/bounds $(BIN)/python -m pytest tests/server/fairness
	@NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(CURDIR)/out/fairness/bounds $(BIN)/python -m bench.fairness prove --short

test-clients: $(READY) ## Triton's own client, its perf_analyzer and KServe's client against live servers, in environments of their own
	@$(BIN)/python -m pytest -rs tests/server/service/test_oip_triton.py tests/foreign/kserve/check_kserve.py
	@$(BIN)/python tests/foreign/perf_analyzer/measure.py

quality: $(READY) ## every baseline and model family on the Complete Journey, one table; long, and goes on after a stop. QUALITY="--interactions F ..." for others
	@$(BIN)/equipoise quality $(QUALITY)

quality-evidence: $(READY) ## keep TABLES (NAME=FOLDER ...) of quality runs, and make docs/quality-evidence.md of all that are kept
	@$(BIN)/python -m training.quality.evidence $(TABLES)

lint: $(READY) ## formatter, linter, types, import walls, contract, stubs
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code
	@$(BIN)/buf breaking --against proto/baseline.binpb
	@PATH=$(BIN):$$PATH ./proto/generate.sh --check
	@echo "lint: all fine"

format: $(READY) ## let the formatters have their way
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/buf format --write

stubs: $(READY) $(PROTOS) ## generate the Python stubs beside the .proto files
	@PATH=$(BIN):$$PATH ./proto/generate.sh

baseline: $(READY) ## accept the contract as released: later changes must not break it
	@$(BIN)/buf build --exclude-source-info --output proto/baseline.binpb

clean: ## remove what the targets made, but keep .venv
	@rm -rf out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup demo serve test test-fast prove-fairness soak-fairness bench-fairness bench-serving bench-training bench-retrieval serving-evidence saturate chaos chaos-evidence gate-selftest fairness-tables fairness-evidence mutants test-bounds test-clients quality quality-evidence lint format stubs baseline clean
