# What a developer needs, one target each; `make help` lists them. Everything lands in .venv and build/.
# Settings: PYTHON=python3.12  CC=clang  DEMO_SECONDS=30  FUZZ_SECONDS=60  BENCH='--only fairlead,nginx'
#           TEST='-k drain'

PYTHON ?= python3
CC ?= cc
CORES ?= $(shell nproc 2>/dev/null || echo 2)
DEMO_SECONDS ?= 10
DEMO_LOAD ?= 50
FUZZ_SECONDS ?= 60
BENCH ?=
TEST ?=

comma := ,
# $(call need,COMMAND,MESSAGE): one line and an end when COMMAND fails.
need = $(1) >/dev/null 2>&1 || { echo '$(2)'; exit 1; }
FIND_HEADER := import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")

VENV := .venv
BIN := $(VENV)/bin
# Stamps live in the environment they speak of, so that `rm -r .venv` is a clean start.
ENV_STAMP := $(VENV)/.installed
BUILD_STAMP := $(VENV)/.built
NATIVE := $(shell find router bench -name '*.pyx' -o -name '*.pxd')

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: run demo test check build bench asan fuzz annotate e2e clean help

help:  ## list the targets
	@sed -n 's/^\([a-z0-9]*\):.*  ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: build  ## four mock engines, the router before them, one answer, a live table; until Ctrl-C
	@$(BIN)/fairlead demo

demo: build  ## the same under load, DEMO_SECONDS each by score and by least in flight, and a comparison
	@$(BIN)/fairlead demo --seconds $(DEMO_SECONDS) --load $(DEMO_LOAD) --policy five_axis --policy least_in_flight

test: build  ## the whole test suite, micro-benchmarks run once; TEST='...' is passed to pytest
	@$(BIN)/python -m pytest -q -n $(CORES) --dist worksteal --benchmark-disable tests bench/micro $(TEST)

check: build  ## ruff, mypy, cython-lint, and the tidy tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint router bench
	@$(BIN)/python -m pytest -q tests/tidy

build: $(BUILD_STAMP)  ## .venv with the locked dependencies, the extensions, and .venv/bin/fairlead

bench: build  ## Fairlead beside nginx, HAProxy and others, then the micro-benchmarks; BENCH='...' is passed on
	@$(BIN)/python -m bench.compare $(BENCH)
	@$(BIN)/python -m pytest -q bench/micro --benchmark-only --benchmark-columns=min,median,iqr,rounds

fuzz: build  ## every fuzz entry point, FUZZ_SECONDS together
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

# A copy of the tree, so that the extensions in use stay as they are. CPython itself leaks by design.
asan: build  ## unit and property tests, then fuzzing, with address and undefined-behaviour sanitizers
	@test -e "$$($(CC) -print-file-name=libasan.so)" || { echo 'libasan is missing: apt install libasan8, or the one of your compiler'; exit 1; }
	@mkdir -p build/asan && rm -rf build/asan/tests
	@tar -cf - --exclude='*.so' --exclude='*.c' --exclude=__pycache__ setup.py pyproject.toml LICENSE README.md router control bench tests docs \
		| tar -xf - -C build/asan
	cd build/asan && FAIRLEAD_SANITIZE=1 ../../$(BIN)/python setup.py -q build_ext --inplace
	cd build/asan && $(SANITIZED) ../../$(BIN)/python -m pytest -q -n $(CORES) --dist worksteal tests/unit tests/property $(TEST)
	cd build/asan && $(SANITIZED) ../../$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

SANITIZED = LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so)" PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

annotate: build  ## what each Cython line costs: HTML pages below build/annotate
	@FAIRLEAD_ANNOTATE=1 $(BIN)/python setup.py -q --name >build/annotate.log && find build/annotate -name '*.html' | sort

e2e: build  ## against real engines, see docs/how-to/real-engines.md
	@$(BIN)/python -m pytest -q tests/e2e

clean:  ## remove what was built; caches of tests and checks too
	@rm -rf $(VENV) build results *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks
	@find router bench tests -name '*.so' -delete
	@find router control bench tests -name __pycache__ -prune -exec rm -rf {} +
	@for source in $$(find router bench -name '*.pyx'); do rm -f "$${source%.pyx}.c" "$${source%.pyx}.html"; done

$(ENV_STAMP): requirements.lock pyproject.toml setup.py
	@$(call need,command -v $(PYTHON),python3 is missing: apt install python3)
	@$(call need,$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3$(comma) 11))',$(PYTHON) is older than 3.11: apt install python3.11 and set PYTHON=python3.11)
	@$(call need,$(PYTHON) -c 'import ensurepip$(comma) venv',Python cannot make virtual environments: apt install python3-venv)
	@$(call need,command -v $(firstword $(CC)),the C compiler $(firstword $(CC)) is missing: apt install gcc libc6-dev)
	@$(call need,$(PYTHON) -c '$(FIND_HEADER)',Python.h is missing: apt install python3-dev)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-deps --prefer-binary -r requirements.lock
	FAIRLEAD_ONLY=none $(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	@$(BIN)/python -m pip check -q
	@touch $@

$(BUILD_STAMP): $(ENV_STAMP) $(NATIVE)
	@echo 'building the native extensions ($(words $(filter %.pyx,$(NATIVE))) of them; what has not changed is kept)'
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@
