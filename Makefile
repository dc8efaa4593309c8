# Everything below sets up what it needs by itself, on Debian or Ubuntu; elsewhere it says what is missing.

PYTHON ?= python3
PG_CONFIG ?= pg_config
# How many processes run tests on clusters at once; most of the time, each waits for servers.
WORKERS ?= 3
INSTALL ?= install
VENV := .venv
BIN := $(VENV)/bin
# Made again whenever the dependencies may have changed.
READY := $(VENV)/.ready-$(shell cksum < pyproject.toml | cut -d ' ' -f 1)
SERVER := $(VENV)/.server-$(shell cksum < scripts/setup-server 2>/dev/null | cut -d ' ' -f 1)
BROWSER := $(VENV)/.browser-$(shell cksum < scripts/setup-browser 2>/dev/null | cut -d ' ' -f 1)

.PHONY: help demo test test-all unit database cluster model check check-build check-docs lint ruff types layers \
	build docs pictures install bench setup clean

help: ## list the goals
	@awk -F ':.* ## ' '/^[a-z-]+:.* ## / { printf "%-13s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY) $(SERVER) ## a sandbox cluster: load, a node joins, rows compared, the node leaves (1 minute)
	$(BIN)/zodan-sql demo

test: check setup ## what CI runs: check, then every test that is not long (20 minutes)
	$(BIN)/pytest -n $(WORKERS)

test-all: check setup ## the long tests too (hours)
	ZODAN_EXAMPLES=10000 $(BIN)/pytest -m ""

unit: $(READY) $(BROWSER) ## the tests that need no server (1 minute)
	$(BIN)/pytest tests/unit

database: $(READY) $(SERVER) ## the tests on one server (1 minute)
	$(BIN)/pytest tests/database

cluster: $(READY) $(SERVER) ## the tests on three to five nodes, under writers (12 minutes)
	$(BIN)/pytest -n $(WORKERS) tests/cluster

model: $(READY) ## the protocols as an executable model (45 seconds)
	$(BIN)/pytest tests/model

check: $(READY) ## everything but the tests (2 minutes)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target check-build check-docs lint ruff types layers

check-build: $(READY) ## build/ is what sql/templates renders to
	$(BIN)/zodan-sql build --check

check-docs: $(READY) ## docs/reference is what the SQL and the command line say
	$(BIN)/python -m zodan_sql.docs --check

lint: $(READY) ## the rendered SQL against the house rules
	$(BIN)/zodan-sql lint

ruff: $(READY) ## style and format of the Python
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## the types of the Python package
	$(BIN)/mypy

layers: $(READY) ## the layers of the Python package
	$(BIN)/lint-imports

build: $(READY) ## render sql/templates into build/
	$(BIN)/zodan-sql build

docs: $(READY) $(if $(PICTURES),pictures) ## write docs/reference from the SQL and the command line; PICTURES=1: the pictures too
	$(BIN)/python -m zodan_sql.docs

pictures: $(READY) $(SERVER) ## draw docs/images from a run of the demo
	$(BIN)/python scripts/draw_pictures.py

install: ## put the extension where CREATE EXTENSION finds it; needs no Python
	@folder="$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension" && \
		$(INSTALL) -d "$$folder" && \
		$(INSTALL) -m 644 build/zodan.control build/zodan--*.sql "$$folder" && \
		echo "installed in $$folder: CREATE EXTENSION zodan CASCADE"

bench: $(READY) $(SERVER) ## joins, copies and what waits, beside Spock alone; KINDS="copying memory": only these (40 minutes)
	PYTHONPATH=tests $(BIN)/python -m bench $(KINDS)

setup: $(READY) $(SERVER) $(BROWSER) ## install what the other goals need, and run nothing

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python 3.11 or later; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory venv-package
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore -e '.[test]'
	@rm -f $(VENV)/.ready-*
	@touch $@

$(SERVER):
	sh scripts/setup-server
	@rm -f $(VENV)/.server-*
	@touch $@

$(BROWSER):
	sh scripts/setup-browser
	@rm -f $(VENV)/.browser-*
	@touch $@

.PHONY: venv-package
venv-package:
	@command -v apt-get >/dev/null || { echo "Python's venv module is missing: install it, then call make again" >&2; exit 1; }
	@as_root=; test "$$(id -u)" = 0 || as_root=sudo; \
		$$as_root apt-get update -qq && $$as_root apt-get install -y -qq --no-install-recommends python3-venv

clean: ## everything that make made
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find zodan_sql tests -name __pycache__ -type d -prune -exec rm -rf {} +
