# Every command a person or CI runs. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
THIRD_PARTY := build/third_party/.filled
READY := $(VENV)/.ready

.PHONY: help
help: ## List these commands
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Run it
.PHONY: demo replay up down status
demo: $(READY) ## Everything on this machine with a simulated market [FOR=60] [RECORDING=folder] [SEED=1]
	@$(BIN)/stratum demo $(if $(FOR),--for $(FOR)) $(if $(RECORDING),--recording $(RECORDING)) $(if $(SEED),--seed $(SEED))

replay: $(READY) ## A recorded series through the real services: RECORDING=folder [OUT=signals.jsonl] [PROFILE=…] [SUMMARY=summary.json]
	@$(BIN)/stratum replay $(RECORDING) $(if $(OUT),--out $(OUT)) $(if $(PROFILE),--profile $(PROFILE)) $(if $(SUMMARY),--summary $(SUMMARY))

up: $(READY) ## Start the local stack and leave it running
	@$(BIN)/stratum up

down: $(READY) ## Stop the local stack
	@$(BIN)/stratum down

status: $(READY) ## What runs, and where
	@$(BIN)/stratum status

##@ Test it
.PHONY: test test-unit test-integration test-e2e check lint types contracts bench faults
test: test-unit test-integration test-e2e ## All three floors

test-unit: $(READY) ## Nothing outside the process; seconds
	$(BIN)/pytest tests/unit -q --disable-socket --allow-unix-socket -n 2

test-integration: $(READY) ## One service with real PostgreSQL and NATS
	$(BIN)/pytest tests/integration -q

test-e2e: $(READY) ## The whole stack, through the gateway
	$(BIN)/pytest tests/e2e -q

check: lint contracts types test-unit current test-integration test-e2e ## Exactly what CI runs, the quickest first

lint: $(READY) ## ruff, import directions, purity
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY) ## mypy, strict
	$(BIN)/mypy

contracts: $(READY) $(THIRD_PARTY) ## buf lint, and breaking changes since the last release
	$(BIN)/buf lint
	@if [ -f protos/released.binpb ]; then $(BIN)/buf breaking protos --against protos/released.binpb; else echo "no release yet: nothing to compare the contracts with"; fi

.PHONY: current
current: $(READY) $(THIRD_PARTY) ## Generated stubs, OpenAPI and client are what the contracts say; migrations are what the tables say
	rm -rf build/gen && mkdir -p build/gen
	$(MAKE) generate INTO=build/gen
	@diff -r -x __pycache__ build/gen gen || { echo "gen/ is stale: run 'make proto' and commit"; exit 1; }
	$(BIN)/python -m gateway.openapi --check gateway/openapi.json
	$(BIN)/python clients/python/generate.py --check
	$(BIN)/stratum schema --check

bench: $(READY) ## What it costs, as ratios measured side by side: [PART=throughput|growth|latency|memory|access] [EVENTS=5000]
	$(BIN)/python -m tests.bench $(or $(PART),all) $(if $(EVENTS),--events $(EVENTS))

.PHONY: plans
plans: $(READY) ## How PostgreSQL answers every query on a generated year; WRITE=1 writes docs/query-plans.md
	nice $(BIN)/python -m tests.bench.plans $(if $(WRITE),--write)

faults: $(READY) ## A recording while everything goes wrong, compared with one in peace: 100 kills and more a seed [SEED=1] [RECORDING=folder]
	$(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED)) $(if $(RECORDING),--recording $(RECORDING))

.PHONY: faults-edge
faults-edge: $(READY) ## Partners' calls while everything at the edge is killed, compared with the ledger call by call [SEED=1] [REQUESTS=50000]
	$(BIN)/python -m tests.faults.edge $(if $(SEED),--seed $(SEED)) $(if $(REQUESTS),--requests $(REQUESTS))

##@ Change it
.PHONY: proto generate format migrate release lock third-party
proto: $(READY) $(THIRD_PARTY) ## Make gen/, the OpenAPI file and the client from protos/
	rm -rf gen/stratum
	$(MAKE) generate INTO=gen
	$(BIN)/python -m gateway.openapi --write gateway/openapi.json
	$(BIN)/python clients/python/generate.py --write

generate:
	@$(BIN)/python -m grpc_tools.protoc -I protos -I build/third_party \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=$(INTO) --grpc_python_out=$(INTO) --mypy_out=quiet:$(INTO) --mypy_grpc_out=quiet,only_async:$(INTO) \
	  $$(cd protos && find stratum -name '*.proto' | sort)
	@touch $(INTO)/stratum/py.typed

format: $(READY) $(THIRD_PARTY) ## Format Python and contracts
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format -w protos

migrate: $(READY) ## Bring the schemas of the local stack up to date
	@$(BIN)/stratum schema --upgrade

release: $(READY) $(THIRD_PARTY) ## Keep today's contracts as what later changes are compared with
	$(BIN)/buf build protos -o protos/released.binpb

lock: ## Resolve dependencies again into requirements.lock (hashes, no index addresses)
	$(PYTHON) -m venv build/uv && build/uv/bin/pip install -q uv
	build/uv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --all-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock

third-party: $(THIRD_PARTY)
$(THIRD_PARTY): $(READY)
	@rm -rf build/third_party && mkdir -p build/third_party/google/api build/third_party/google/rpc
	@source=$$($(BIN)/python -c 'import google.api, pathlib; print(pathlib.Path(google.api.__path__[0]).parent)'); \
	  cp $$source/api/{annotations,http,httpbody}.proto build/third_party/google/api/; \
	  cp $$source/rpc/{status,error_details}.proto build/third_party/google/rpc/
	@touch $@

$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what requirements.lock names (once; about a minute)…"
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
