# Everything starts from Python 3.11, make and git. `make demo` and `make test` install what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
PRETRAIN := pretraining
LEADERBOARD := leaderboard
SCALE := scale
SEEDS := 0 1 2
EXTRAS_RUN := faces,gen
EXTRAS_TEST := faces,gen,ray,cluster,insightface,dev

# Two libraries with a thread per core each would fight over the cores.
export OMP_NUM_THREADS ?= 1
# Hundreds of processes start from these modules: compile each once, whatever the surroundings say.
export PYTHONDONTWRITEBYTECODE :=
export ORCHARD_LAKE ?= $(CURDIR)/orchard_data
export DAGSTER_HOME ?= $(CURDIR)/.dagster

.PHONY: help demo test lint format ui doctor lock notebook crash fuzz bench bench-check scale leaderboard pretrain clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.run  ## Install, render a small world, run the whole DAG on the CPU, write the report
	$(BIN)/orchard doctor
	$(BIN)/orchard demo --folder $(DEMO)

test: $(VENV)/.test  ## Install and run every check: format, lint, types, layers, tests
	@$(BIN)/python -m models.worlds.compiled
	@echo "the linters run beside the tests; what they say follows below"
	@nice -n 10 $(MAKE) --no-print-directory lint > $(VENV)/lint.log 2>&1 & style=$$!; \
	$(BIN)/python -m pytest -n logical --maxprocesses 3 --dist loadscope --no-loadscope-reorder; tests=$$?; \
	wait $$style; style=$$?; cat $(VENV)/lint.log; \
	echo "tests ended with $$tests, linters with $$style"; [ $$tests -eq 0 ] && [ $$style -eq 0 ]

lint: $(VENV)/.test  ## Format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/.test  ## Mend format and what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ui: $(VENV)/.run  ## Open the Dagster UI of the lake on 127.0.0.1
	$(BIN)/orchard ui

doctor: $(VENV)/.run  ## Say what this machine lacks and how to mend it
	$(BIN)/orchard doctor

$(VENV)/.run: pyproject.toml requirements.lock tools/install.sh
	./tools/install.sh "$(PYTHON)" "$(VENV)" "$(EXTRAS_RUN)"
	@touch $@

$(VENV)/.test: pyproject.toml requirements.lock tools/install.sh
	./tools/install.sh "$(PYTHON)" "$(VENV)" "$(EXTRAS_TEST)"
	@touch $(VENV)/.run $@

bench: $(VENV)/.test  ## Measure planning and refresh at 1.5 million rows, storage, annotation, feeding, engines, training, triplets; best alone (30 minutes)
	$(BIN)/python -m benches.planning
	$(BIN)/python -m benches.refresh
	$(BIN)/python -m benches.storage
	$(BIN)/python -m benches.annotate
	$(BIN)/python -m benches.world
	$(BIN)/python -m benches.feeding
	$(BIN)/python -m benches.engine
	$(BIN)/python -m benches.train_step
	$(BIN)/python -m benches.triplets

scale: $(VENV)/.test  ## Take 1.5 million photographs through ingest, stages, refresh and the daemon, write docs/scale.md (an hour)
	$(BIN)/python -m benches.scale --work $(SCALE)
	$(BIN)/python -m benches.scale_page

leaderboard: $(VENV)/.test  ## Train and measure every method on the benchmark over three seeds, write docs/leaderboard.md (most of an hour)
	$(BIN)/python -m benches.leaderboard run --work $(LEADERBOARD) --seeds $(SEEDS)
	$(BIN)/python -m benches.leaderboard shipped
	$(BIN)/python -m benches.leaderboard report

bench-check: $(VENV)/.test  ## Score the shipped checkpoints again, compare ratios of the short benches with their record; fails where either is worse
	$(BIN)/python -m benches.leaderboard check
	$(BIN)/python -m benches.check

EMBEDDER := models/identity/checkpoints/world_embedder.safetensors
BASE := $(BIN)/python -m models.swap.pretraining --embedder $(EMBEDDER)
MORE_PEOPLE := --people 12000 --photos 2 --scenes 36000
DETECTORS := $(BIN)/python -c "from resources.weights.resolve import resolve; \
	print(*(resolve(role).path for role in ('centerface', 'face_landmarker', 'selfie_segmenter')))"
pretrain: $(VENV)/.test  ## Train the world's embedder, the tiny base and DiffFace's small networks anew, each behind its gate; resumable (7 hours)
	$(BIN)/python -m models.identity.world_embedder_training --work $(PRETRAIN)/embedder --output $(EMBEDDER)
	$(BASE) --work $(PRETRAIN)/first --output $(PRETRAIN)/first.safetensors \
		--downsample-size 8 --steps 7500 --stop-after 4500
	$(BASE) --work $(PRETRAIN)/second --output $(PRETRAIN)/second.safetensors \
		--start-from $(PRETRAIN)/first.safetensors --steps 4500 --stop-after 2000 --learning-rate 1.5e-3
	$(BASE) --work $(PRETRAIN)/third --output $(PRETRAIN)/third.safetensors \
		--start-from $(PRETRAIN)/second.safetensors --steps 4500 --learning-rate 1.5e-3 --timestep-shift 4 \
		--held-out-pairs 0
	$(BASE) --work $(PRETRAIN)/fourth --output $(PRETRAIN)/fourth.safetensors \
		--start-from $(PRETRAIN)/third.safetensors --steps 5000 --learning-rate 3e-3 --timestep-shift 16 \
		--optimiser muon --dropout 0.02 --held-out-pairs 0
	$(BASE) --work $(PRETRAIN)/fifth --output $(PRETRAIN)/fifth.safetensors \
		--start-from $(PRETRAIN)/fourth.safetensors --steps 3600 --learning-rate 2.5e-3 --timestep-shift 12 \
		--optimiser muon --dropout 0.02 --seed 1 $(MORE_PEOPLE) --held-out-pairs 0
	$(BASE) --work $(PRETRAIN)/sixth --output $(PRETRAIN)/sixth.safetensors \
		--start-from $(PRETRAIN)/fifth.safetensors --steps 3200 --learning-rate 2.5e-3 --timestep-shift 8 \
		--optimiser muon --dropout 0.02 --seed 2 $(MORE_PEOPLE) --held-out-pairs 0
	$(BASE) --work $(PRETRAIN)/seventh --output $(PRETRAIN)/seventh.safetensors \
		--start-from $(PRETRAIN)/sixth.safetensors --steps 4800 --learning-rate 2.5e-3 --timestep-shift 6 \
		--optimiser muon --dropout 0.02 --seed 3 $(MORE_PEOPLE) --held-out-pairs 0
	$(BASE) --work $(PRETRAIN)/eighth --output $(PRETRAIN)/eighth.safetensors \
		--start-from $(PRETRAIN)/seventh.safetensors --steps 1700 --learning-rate 1.2e-3 --timestep-shift 6 \
		--optimiser muon --dropout 0.02 --seed 3 --more-seeds 1 2 $(MORE_PEOPLE) --held-out-pairs 0
	$(BASE) --work $(PRETRAIN)/ninth --output models/swap/checkpoints/tiny_base.safetensors \
		--start-from $(PRETRAIN)/eighth.safetensors --steps 1500 --learning-rate 1.2e-3 --timestep-shift 6 \
		--optimiser muon --dropout 0.02 --seed 3 --more-seeds 1 2 $(MORE_PEOPLE) \
		--detected-scenes 7000 --detected-seed 4 --detectors $$($(DETECTORS))
	$(BIN)/python -m models.diffface.world_experts_training --work $(PRETRAIN)/experts \
		--output models/diffface/checkpoints
	$(BIN)/python -m models.diffface.pretraining --work $(PRETRAIN)/denoiser \
		--output models/diffface/checkpoints/tiny_denoiser.safetensors

notebook: $(VENV)/.test  ## Run the notebook anew and keep its output (two minutes)
	$(BIN)/python tools/notebook.py

lock:  ## Resolve every extra anew and write requirements.lock
	./tools/lock.sh "$(PYTHON)"

crash: $(VENV)/.test  ## Kill every kind of stage at every point, run it again, compare (about 10 minutes)
	$(BIN)/python tests/crash/matrix.py --json benches/results/crash.json

fuzz: $(VENV)/.test  ## Thousands of hostile files through the real ingest, every one accounted for (1 to 6 minutes)
	$(BIN)/python tests/fuzz/run.py --json benches/results/fuzz.json

clean:  ## Remove the environment; photographs, lake and Dagster's history stay
	rm -rf $(VENV)
