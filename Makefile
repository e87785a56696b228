# Everything a checkout needs: `make run` serves, `make test` tests. ORCHESTRATOR_… variables
# override every setting; VENV=… and PYTHON=… say where the environment lies and what it is made of,
# JOBS=… how many processes test at once.

VENV ?= $(CURDIR)/.venv
PYTHON ?=
# Processes that test at once. Most tests wait for servers more than they compute.
JOBS ?= 3
export VENV PYTHON
# Without compiled modules each interpreter compiles what it imports: three times the time of a start.
unexport PYTHONDONTWRITEBYTECODE

bin := $(VENV)/bin
python := $(bin)/python
# Files begin in the order of their folders, integration first: no long file is left to the end.
pytest := $(python) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
source := orchestrator build_engines model_repository/backends docker tests

# The environment's own Python answers fastest; without it any that runs will look for the right
# one. A shim for a Python that is not installed is there and fails, so each is tried.
define environment
@for python in "$(python)" $(PYTHON) python3.12 python3.11 python3 python python2; do \
	if "$$python" -S -c "" >/dev/null 2>&1; then exec "$$python" -S build_engines/host/bootstrap.py $(1); fi; \
done; \
echo "make: the appliance needs Python 3.11 or 3.12, found none; in Debian 12 and Ubuntu 24.04:" \
	"sudo apt-get install --no-install-recommends" \
	"git make curl python3-venv libpython3-dev libatomic1" >&2; exit 1
endef

.DEFAULT_GOAL := help
.PHONY: help run test check check-source check-units engines image doctor lock golden bench profile clean
.SILENT:

help: ## this list
	awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: ## serve: make the environment, build what is missing, start Triton and the server
	$(call environment)
	$(python) -m build_engines || echo "make: going on with the models that are built" >&2
	exec $(python) -m orchestrator serve

# Real kills and clocks on a loaded machine may be unlucky once: that is told as a rerun, and it is
# a failure when it happens again.
test: ## the whole suite, every server that it needs included
	$(call environment,--dev)
	$(python) -m build_engines
	$(pytest) --reruns 1

check: ## format, lint, types, imports and the quick unit tests
	$(call environment,--dev)
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target check-units check-source

check-source:
	$(call environment,--dev)
	$(bin)/ruff format --check $(source)
	$(bin)/ruff check $(source)
	$(bin)/lint-imports --no-cache
	$(bin)/mypy

# What needs a PostgreSQL server of its own, or time, waits for `make test`.
check-units:
	$(pytest) -q -k "not postgresql" -m "not slow" tests/unit tests/wire tests/test_architecture.py

engines: ## build what is missing or out of date: MODELS="a b" TARGET=cpu ARGS="--dry-run"
	$(call environment)
	$(python) -m build_engines $(MODELS) $(if $(TARGET),--target $(TARGET)) $(ARGS)

# BUILDER=podman or "buildah" do as well; TARGET=gpu needs NVIDIA's base image.
TARGET ?= cpu
BUILDER ?= docker
image: ## the container image, TARGET=cpu or TARGET=gpu
	$(BUILDER) build --file docker/Dockerfile --target $(TARGET) --tag operayde-appliance:$(TARGET) \
		--build-arg REVISION=$$(git rev-parse --short HEAD 2>/dev/null || echo unknown) .

# Warnings have an exit code of their own, and are no failure of make.
doctor: ## look at everything that is needed, and say what to do
	$(call environment)
	$(python) -m orchestrator doctor || [ $$? -eq 1 ]

lock: ## lock the requirements anew, with hashes
	$(call environment)
	for name in uv base dev bench test-models test-programs; do \
		case $$name in test-*) dependencies=--no-deps;; *) dependencies=;; esac; \
		$(bin)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--no-header $$dependencies requirements/$$name.in --output-file requirements/$$name.txt || exit 1; \
	done

golden: ## record the golden wire transcripts anew; look at the difference before committing
	$(call environment,--dev)
	UPDATE_GOLDEN=1 $(python) -m pytest -q tests/wire

bench: ## one table of speed and cost, peers beside it: ARGS=--quick or parts of it
	$(call environment,--dev)
	$(python) -m build_engines
	exec $(python) -m tests.bench $(ARGS)

profile: ## where the time of a token and of a request goes, with flame graphs
	$(call environment,--dev)
	$(python) -m build_engines
	exec $(python) -m tests.bench profile

clean: ## remove caches; the environment, built models and data stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(source) -name __pycache__ -type d -prune -exec rm -rf {} +
