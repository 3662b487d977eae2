# The two commands of the README: `make demo` and `make test`. On Debian, as root, they install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS := $(shell nproc)
TESTERS := $(shell echo $$(( ($(JOBS) * 3 + 1) / 2 ))) # Python tests wait a third of their time: on two cores 3 take 7.5 min, 2 8.4
ALL_CORES = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS))
NATIVE := $(wildcard csrc/*/*.c csrc/*/*.h lazarus/_native/*.pyx lazarus/_native/*.pxd) setup.py pyproject.toml

FIRST_WORKLOADS := $(addprefix tests/workloads/test_,relational_postgres.py embedded_sqlite.py)

.PHONY: help setup demo test test-c test-python test-first-workloads test-workloads test-threads fuzz lint format bench bench-quick clean
.DELETE_ON_ERROR:

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/built ## system packages, virtual environment, build

$(VENV)/system-%: tools/system-packages
	@tools/system-packages $*
	@mkdir -p $(VENV) && touch $@

$(VENV)/python: pyproject.toml | $(VENV)/system-build
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade pip 'setuptools>=77' wheel 'cython>=3.0.10'
	@touch $@

$(VENV)/built: $(VENV)/python $(NATIVE)
	@echo 'building the native core (two minutes on two cores)'
	@$(BIN)/pip install --quiet --no-build-isolation --editable '.[test,lint,bench]'
	@$(BIN)/python -m compileall -q lazarus
	@touch $@

demo: $(VENV)/built $(VENV)/system-demo ## the main job on a real Debian image
	@demo/run

# All three at once: the workloads mostly wait, for packages and for disks.
test: $(VENV)/built $(VENV)/system-test ## every test: C under sanitizers, Python, and the first workloads
	@$(MAKE) --no-print-directory -j3 test-python test-c test-first-workloads

test-python: $(VENV)/built $(VENV)/system-test ## the Python tests alone
	@$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile

test-first-workloads: $(VENV)/built $(VENV)/system-test ## the workloads that every change has to stand
	@$(BIN)/python -m pytest -m workload $(FIRST_WORKLOADS)

test-workloads: $(VENV)/built $(VENV)/system-test ## real databases and sites in containers, killed under load
	@$(BIN)/python -m pytest -m workload tests/workloads

# As many jobs as there are cores; beside the other tests, which are two, as many as are left.
test-c: $(VENV)/system-build ## the C tests alone
	@$(MAKE) --no-print-directory $(ALL_CORES) -Otarget -C tests/c
	@$(MAKE) --no-print-directory $(ALL_CORES) -Otarget -C tests/fuzz

test-threads: $(VENV)/system-build ## the threaded stages under ThreadSanitizer
	@$(MAKE) --no-print-directory -C tests/c threads

fuzz: $(VENV)/system-build $(VENV)/system-fuzz ## libFuzzer on every target, SECONDS=60 each
	@$(MAKE) --no-print-directory -C tests/fuzz fuzz

lint: $(VENV)/built $(VENV)/system-lint ## ruff, mypy --strict, clang-format, cython-lint, C warnings as errors
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict lazarus
	@PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint lazarus/_native # it calls pycodestyle by name
	@clang-format --dry-run --Werror $$(git ls-files 'csrc/*.[ch]' 'tests/*.[ch]')
	@for source in csrc/*/*.c; do \
		$(CC) -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Wconversion -Wshadow -Werror -Icsrc -fsyntax-only $$source || exit 1; done

format: ## rewrite everything in the project's style
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .
	@clang-format -i $$(git ls-files 'csrc/*.[ch]' 'tests/*.[ch]')

$(VENV)/peers: benchmarks/peers.txt $(VENV)/built $(VENV)/system-bench
	@while read -r peer; do $(BIN)/pip install --quiet "$$peer" </dev/null || echo "bench goes on without $$peer"; done <$<
	@touch $@

bench: $(VENV)/peers ## every benchmark on ext4, XFS and btrfs; report/index.html, JSON in .benchmarks/
	@$(BIN)/python -m benchmarks run --report report

bench-quick: $(VENV)/built $(VENV)/system-bench ## the quick set, two minutes (and the image, the first time)
	@$(BIN)/python -m benchmarks run --quick --fs ext4 --report report

clean: ## everything that was built
	@rm -rf build .venv .demo .benchmarks report lazarus/_native/*.so *.egg-info
