# `make` alone lists the targets. Every target does its own set-up, and says what it installs and why.
#
#   PYTHON=python3.13     another interpreter (a name or a full path); it gets a .venv-3.13 of its own
#   PYTEST_ARGS="-x -k …" more arguments for pytest, which runs twice: without the laboratory, and in it
#   SKIP_APT=1            do not install or ask for Debian packages: what needs a missing one then fails

PYTHON ?= python3
PYTEST_ARGS ?=

VENV := .venv-$(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
BIN := $(VENV)/bin

# An ordinary user's PATH on Debian lacks the folders of ip and nft.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export SKIP_APT

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench soak install uninstall clean setup-demo setup-test setup-bench install-check

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name what; do \
		printf '  make %-10s %s\n' "$$name" "$$what"; done

demo: setup-demo ## watch two machines find a tunnel, move a file through it, roam and recover (90 s)
	@"$(BIN)/zeqnode" demo

test: setup-test lint install-check ## everything that must hold: lint, types, layers, tests (15 min on 2 cores)
	@"$(BIN)/python" -m simulations.lab pytest -n auto --maxprocesses 4 -m "not lab" $(PYTEST_ARGS) || test $$? = 5
	@"$(BIN)/python" -m simulations.lab pytest -n 2 --dist loadfile -m lab $(PYTEST_ARGS) || test $$? = 5

lint: setup-test ## ruff, mypy --strict and the layers alone
	@"$(BIN)/ruff" check --quiet .
	@"$(BIN)/ruff" format --check --quiet . || { \
		echo 'Some files are not formatted: run "$(BIN)/ruff format" and look at what it changed.'; exit 1; }
	@"$(BIN)/mypy"
	@"$(BIN)/lint-imports" --no-logo

bench: setup-bench ## zeqnode beside wireguard-go, OpenVPN, Nebula and tinc, on this machine (8 min)
	@"$(BIN)/zeqnode" bench

soak: setup-test ## the same tests, ten times as long and with many more random examples, and a large world (hours)
	@HYPOTHESIS_PROFILE=soak "$(BIN)/python" -m simulations.lab pytest -o timeout=14400 $(PYTEST_ARGS)
	@"$(BIN)/zeqnode" sim run half-hour

install: ## put zeqnode into /opt/zeqnode, its command into /usr/local/bin, and a systemd unit (as root)
	@.ci/install "$(PYTHON)"

uninstall: ## take away what `make install` put there; keys and state stay in /var/lib/zeqnode (as root)
	@.ci/uninstall

clean: ## remove what make made here: the .venv-* folders and the tools' caches
	@rm -rf .venv-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

setup-demo setup-test: setup-%:
	@.ci/packages $*
	@.ci/venv "$(PYTHON)" "$(VENV)" $*

setup-bench:
	@.ci/packages bench
	@.ci/venv "$(PYTHON)" "$(VENV)" demo

install-check: setup-test
	@.ci/install-check "$(PYTHON)" "$(VENV)"
