# `make env`, `make test` and `make demo` each work alone in a fresh clone; they need Python 3.10 to 3.13 and a package
# index, and make everything in .venv and runs/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m monai.bundle run
# several processes on few cores: a thread that waits must not keep its core busy
export OMP_WAIT_POLICY ?= PASSIVE
export MONAI_FAIL_ON_DUPLICATE_CONFIG ?= 1

# as many processes as there are cores to test on; a file's tests stay together, since they share what was set up
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help env test test-slow lint demo clean

help:  ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

env: $(VENV)/.ready  ## make .venv, with everything that the project and its tests need

$(VENV)/.ready: requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

lint: env  ## check style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint  ## lint, then all tests but the slow ones
	$(PYTEST) -m "not slow"

test-slow: lint  ## lint, then all tests
	$(PYTEST)

demo: env  ## train, evaluate and segment computer-made images, in minutes
	$(RUN) training --config_file "['configs/train.json','configs/demo.yaml']" --output_dir runs/demo --overwrite True
	$(RUN) evaluating --config_file "['configs/train.json','configs/evaluate.json']" \
		--dataset_dir demo --demo_dir runs/demo/demo --checkpoint runs/demo/best.pt --output_dir runs/demo/evaluation
	$(RUN) --config_file configs/inference.json \
		--dataset_dir demo --demo_dir runs/demo/demo --checkpoint runs/demo/best.pt --output_dir runs/demo/predictions \
		--overwrite True
	@echo
	@echo "Look at runs/demo/evaluation/predictions.png (what each expert saw, how they voted),"
	@echo "runs/demo/evaluation/summary.json and runs/demo/predictions/report.html. The images are computer-made phantoms."

clean:  ## remove what was made, the environment apart
	rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache
