# `make up` and `make test` are all a newcomer needs; `make help` lists the rest.
PYTHON ?= python3
STACK ?= dev
VENV := .venv/bin/python

.PHONY: help up status down clean plan test lint bench soak matrix
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

.venv/groundwork: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "error: Python's venv module is missing. Install it: apt-get install python3-venv" >&2; exit 1; }
	@echo "making .venv from requirements-dev.txt (a minute or two)"
	@test -x $(VENV) || $(PYTHON) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

up: .venv/groundwork ## a running platform on this machine: Kubernetes, the engines, the services
	@$(VENV) -m sandbox up $(UP)

status: .venv/groundwork ## what runs where, and how much memory it takes
	@$(VENV) -m sandbox status

down: .venv/groundwork ## stop everything and keep the data for the next `make up`
	@$(VENV) -m sandbox down

clean: .venv/groundwork ## stop everything and delete data and caches
	@$(VENV) -m sandbox clean

plan: .venv/groundwork ## what a stack would create, without a cluster: make plan STACK=prod
	@$(VENV) -m stacks.plan --stack $(STACK)

test: .venv/groundwork ## every test whose needs are met; the others are skipped and counted
	@$(VENV) -m pytest

lint: .venv/groundwork ## ruff and basedpyright, strict
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/basedpyright

bench: .venv/groundwork ## ratios against named peers: a table, and build/bench.json
	@$(VENV) -m bench

soak: .venv/groundwork ## the long tests
	@$(VENV) -m pytest -m soak

matrix: ## the runtime's tests on Python 3.11 to 3.14, as far as installed, and on both event loops
	@tests/matrix.sh
