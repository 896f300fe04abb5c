# Every target sets itself up: `make quickstart` and `make test` work in a fresh clone with Python >= 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Two busy OpenMP threads per process are slower than one on small machines; waiting threads must sleep.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install quickstart demo docs map test test-full test-oldest test-lmms test-engine lint wheel bench-peers clean hostile

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# Rebuilt when the dependencies change. The stamp is written last, so an interrupted install is simply repeated.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python %d.%d is too old: ARR-COC needs 3.11 or newer; run make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "this Python has no venv/ensurepip: install your system's python3-venv package, or use make PYTHON=..."; exit 2; }
	@echo "installing into $(VENV): torch alone is several GB, this takes a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off -e '.[dev]'
	@touch $@

install: $(READY)  ## create .venv with the project and everything it needs

quickstart: $(READY)  ## learn a policy on the shipped reference model, evaluate it beside the baselines, write a run folder under runs/
	$(BIN)/python -m eval quickstart

demo: $(READY)  ## serve the patch-budget demo, on this machine only
	$(BIN)/python -m demo

docs: $(READY)  ## build the API reference into build/docs; fails on a public name that is not documented
	$(BIN)/python -m pytest -q tests/house/test_docs.py
	HF_HUB_OFFLINE=1 $(BIN)/python -m pdoc -d numpy -o build/docs allocator arr_coc '!arr_coc.asking.lmms' '!arr_coc.engines'
	@echo "open build/docs/index.html"

map: $(READY)  ## write the map of folders and files in arr_coc/README.md
	$(BIN)/python tests/house/map.py

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint  ## lint, then the whole test suite
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2

test-full: lint  ## every test, with every cell of the exactness matrix; writes tests/wrapping/MATRIX.md
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 ARR_COC_MATRIX=tests/wrapping/MATRIX.md $(BIN)/python -m pytest

test-oldest: $(READY)  ## the wrapping tests on the oldest transformers that is supported
	$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off --no-deps --upgrade --target .venv-oldest 'transformers==5.19.*'
	PYTHONPATH=.venv-oldest OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 tests/wrapping

test-lmms:  ## the real lmms-eval on a tiny local task, in .venv-lmms (a large install)
	$(PYTHON) -m venv .venv-lmms
	.venv-lmms/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off -e '.[eval]' 'lmms-eval>=0.7,<0.8' pytest pytest-timeout
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-lmms/bin/python -m pytest tests/lmms

# vLLM brings its own torch and an older transformers: an environment apart (3.7 GB).
.venv-engine/.ready: .ci/engine.txt .ci/torchvision_on_cpu.py pyproject.toml
	$(PYTHON) -m venv .venv-engine
	.venv-engine/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off -r .ci/engine.txt -e '.[serve]'
	.venv-engine/bin/python -m pip uninstall --yes --quiet torchaudio torchcodec
	.venv-engine/bin/python .ci/torchvision_on_cpu.py
	@touch $@

test-engine: .venv-engine/.ready  ## the engine's tests in a real vLLM, on this machine's processor, in .venv-engine
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-engine/bin/python -m pytest tests/engines

hostile: $(READY)  ## attack everything: pictures, policies, logs, stores, poisoned histories; then a server: fuzzing, hostile requests, a stopwatch on its event loop, 50 times kill -9
	ARR_COC_HOSTILE=all OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/hostile tests/demo/test_uploads.py
	$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off 'schemathesis>=4,<5'
	$(BIN)/python -m eval serving fuzz
	$(BIN)/python -m eval serving hostile
	$(BIN)/python -m eval serving loop
	$(BIN)/python -m eval serving log-kill -n 50
	$(BIN)/python -m eval serving kill -n 50

wheel: $(READY)  ## build the wheel and the source archive into dist/
	$(BIN)/python -m build --no-isolation

# The peers bring their own dependencies, and one of them compiles: an environment apart, outside `make test`.
.venv-peers/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off -e '.[peers,jax]'
	@touch $@

bench-peers: .venv-peers/.ready  ## benchmark the allocator beside its peer libraries, into runs/allocator-<date>
	OMP_NUM_THREADS=1 .venv-peers/bin/python -m eval.bandits --peers --out runs/allocator-$$(date +%Y%m%d-%H%M%S)

clean:  ## remove .venv, caches and builds (runs/ is kept)
	rm -rf $(VENV) .venv-peers .venv-lmms .venv-oldest .venv-engine build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
