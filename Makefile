# All that a newcomer types: make train, make test. Python 3.11-3.13, make and git are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup train test test-measure bench champion lint format ui study lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV) (about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

train: setup ## all eight folds on the built-in data; ARGS=resume=true goes on with one that was stopped
	$(BIN)/python -m h3.train -m 'fold=glob([lomo_*,lowo_*])' hydra/launcher=joblib hydra.launcher.n_jobs=2 $(ARGS)

test: setup ## the test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: setup ## ratios within one run, and against the run before (at most 10 minutes on two idle cores; ARGS=STAGE: one stage)
	$(BIN)/python scripts/bench.py $(ARGS)

lint: setup ## style, types, the rule of imports, declared packages
	$(BIN)/ruff check src tests scripts docs
	$(BIN)/ruff format --check src tests scripts docs
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry src

format: setup ## what lint can put right by itself
	$(BIN)/ruff check --fix src tests scripts docs
	$(BIN)/ruff format src tests scripts

# The collector's tests need PyTorch (5 GB with what its wheel asks for): an environment of its own, made by this target alone.
MEASURE := .venv-measure

test-measure: $(MEASURE)/.ready ## the tests of scripts/measure_steps.py, on the CPU
	$(MEASURE)/bin/python -m pytest tests/measure

$(MEASURE)/.ready: requirements-measure.lock
	@test -x $(MEASURE)/bin/python || $(PYTHON) -m venv $(MEASURE)
	@echo "installing PyTorch into $(MEASURE) (about 90 seconds)"
	@$(MEASURE)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-measure.lock
	@touch $@

ui: setup ## MLflow on 127.0.0.1:5000
	@$(BIN)/python -c "from h3.tracking.store import open_store; open_store(None, 'h3')"
	MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow server --backend-store-uri sqlite:///$(CURDIR)/mlruns/mlflow.db --host 127.0.0.1 --port 5000

lock: ## resolve pyproject.toml anew into the lock files (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -o requirements.lock
	uv pip compile --group pyproject.toml:measure --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header -o requirements-measure.lock

champion: setup ## the champion that ships, made anew from the packaged measurements, and its table of BLIS's models (7 minutes, Go)
	$(BIN)/python scripts/make_champion.py
	$(BIN)/python scripts/make_blis_coverage.py

clean:
	rm -rf $(VENV) $(MEASURE) outputs multirun .h3_cache

STUDY := $(BIN)/python -m h3.train -m hydra/launcher=joblib hydra.launcher.n_jobs=2 replay.enabled=false

study: setup ## the whole comparison on the built-in data: sweep, within-Mixtral check, ablation, report
	$(STUDY) 'fold=glob([lomo_*,lowo_*])' 'model=glob(*)'
	$(STUDY) fold=within_mixtral fold.holdout=codegen,general,roleplay
	$(STUDY) experiment=ablation
	$(BIN)/python -m h3.compare out=compare
