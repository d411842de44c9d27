# `make demo` and `make test` are complete on a fresh Debian 12: system packages, .venv, extensions, run.
# PYTHON=/path/to/python3 chooses the interpreter of a new .venv. ARGS= goes to pytest, the demo or the bench.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# nft, ip and nginx live in sbin, which a user's PATH often lacks.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

BIN := .venv/bin
# Two builds at once would write the same files.
EXTENSIONS := flock -w 900 build/lock $(BIN)/python setup.py -q build_ext
# The longest first, so that none of them runs alone at the end.
TESTS ?= $(wildcard tests/e2e tests/netns tests/interop tests/fuzz tests/unit)
ARGS ?=
# Tests wait more than they compute: one process more than there are processors. ARGS=-n0 runs them in one.
PYTEST = $(BIN)/pytest -n $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder --durations=10 --durations-min=5

# A variant's modules come first on the path; PYTHONSAFEPATH keeps the working directory from going before them.
on_variant = AMBIENT_BUILD=$(1) PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/$(1)/lib
# Leaks are left to the tests that count objects: CPython itself keeps memory until it exits.
ASAN_RUN = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:handle_abort=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	PYTHONMALLOC=malloc

.PHONY: help packages setup build build-debug build-asan build-seeded demo test test-debug test-asan kube check bench gate clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 20

packages:
	@echo '[1/4] system packages'
	@scripts/system-packages

setup: packages  ## system packages and the virtual environment
	@echo '[2/4] virtual environment'
	@scripts/virtualenv

build: setup  ## the compiled extensions, in place
	@echo '[3/4] compiled extensions'
	@$(EXTENSIONS) --inplace

build-debug: setup  ## the same with bounds checks and asserts, in build/debug/lib
	@echo '[3/4] compiled extensions (debug)'
	@AMBIENT_BUILD=debug $(EXTENSIONS)

build-asan: setup  ## the same with AddressSanitizer and UBSan, in build/asan/lib
	@echo '[3/4] compiled extensions (sanitizers)'
	@AMBIENT_BUILD=asan $(EXTENSIONS)

build-seeded: setup  ## the release with defects that prove the performance gate, in build/seeded/lib
	@echo '[3/4] compiled extensions (seeded)'
	@AMBIENT_BUILD=seeded $(EXTENSIONS)

demo: build  ## a two-node mesh on this machine, exercised and reported
	@echo '[4/4] demo'
	@$(BIN)/ambient demo $(ARGS)

test: build  ## unit, interop and network-namespace tests
	@echo '[4/4] tests'
	@$(PYTEST) $(TESTS) $(ARGS)

test-debug: build-debug  ## the tests on the debug build
	@echo '[4/4] tests (debug build)'
	@$(call on_variant,debug) $(PYTEST) $(TESTS) $(ARGS)

test-asan: build-asan  ## the unit and interop tests on the sanitizer build
	@echo '[4/4] tests (sanitizer build)'
	@$(call on_variant,asan) $(ASAN_RUN) $(PYTEST) $(filter-out tests/netns,$(TESTS)) -m "not slow and not netns" --timeout=300 $(ARGS)

kube:  ## a kube-apiserver and its etcd, once, into the user's cache: the tests that want one then run
	@scripts/kube

check: build  ## formatting, lint, types, layering, stubs, compiler warnings
	@echo '[4/4] checks'
	@scripts/check

bench: build  ## the measurements, against Envoy in the same run
	@echo '[4/4] bench'
	@$(BIN)/python -P -m bench $(ARGS)

gate: build  ## refuses a change that makes the mesh slower or fatter
	@echo '[4/4] gate'
	@$(BIN)/python -P -m bench gate $(ARGS)

clean:  ## everything built, except .venv
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find meshcore ztunnel waypoint bench -name '*.so' -delete
	@find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
