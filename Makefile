# `make` lists the targets. Any of them first installs what it needs into .venv; a second call installs nothing.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

TORCH := 2.13.0
BIN := .venv/bin
STAMP := .venv/.installed
PIP := PIP_USER=0 $(BIN)/python -m pip --disable-pip-version-check --no-input -qq install

# A variable counts where it was written after `make`: ENV, SEED, DATA may mean something else in the environment.
given = $(filter command,$(firstword $(origin $1)))
quote = '$(subst ','\'',$1)'
option = $(if $(call given,$1),$(call quote,$2=$(value $1)))
# ARGS is divided at blanks, but those within quotes; nothing else in it, nor a quote without its partner, is special.
divide = import shlex, sys; text = sys.argv[1]; unpaired = any(text.count(q) % 2 for q in "\"\x27"); \
	print(shlex.join(text.split() if unpaired else shlex.split(text)))
shell_words = $(if $(call given,$1),$(shell $(BIN)/python -c '$(divide)' $(call quote,$(value $1))))
OPTIONS = $(strip $(call option,ENV,env) $(call option,AGENT,agent) $(call option,SCALE,scale) \
	$(call option,GENERATOR,generator) $(call option,SEED,seed) $(call option,SEEDS,seeds) \
	$(call option,STEPS,steps) $(call option,DATA,data.source) $(call option,RUN,run) $(call option,RUNS,runs) $(call shell_words,ARGS))

.PHONY: help demo train slurm prior generate evaluate report analyse data test test-extra extras test-slow lint types bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  ENV=hopper-medium AGENT=td3_bc SCALE=smoke|laptop|workstation|paper GENERATOR=none|unguided|pgd|pets|… SEED=0 SEEDS=4"
	@echo "  DATA=auto|d4rl|local|PATH RUN=folder RUNS=folder|glob STEPS=number ARGS=\"guidance.coef=2\"    all optional, after the target"
	@echo "  PYTHON=/path/to/python3 TORCH_INDEX=https://...    choose what is installed from"

train: $(STAMP) ## the whole story: prior, agent, score, figures (ENV AGENT SCALE GENERATOR SEED SEEDS DATA)
	$(BIN)/pgd train $(OPTIONS)

demo: $(STAMP) ## what policy guidance does, in one picture of a maze, in minutes
	$(BIN)/pgd demo $(OPTIONS)

slurm: $(STAMP) ## the same as a job array of a SLURM cluster, with ENV=a,b AGENT=a,b SEED=0,1 (docs/slurm.md)
	$(BIN)/pgd slurm $(OPTIONS)

prior: $(STAMP) ## the diffusion prior alone (ENV SCALE DATA)
	$(BIN)/pgd prior $(OPTIONS)

generate: $(STAMP) ## synthetic trajectories from a finished run (RUN)
	$(BIN)/pgd generate $(OPTIONS)

evaluate: $(STAMP) ## the score of a finished run in the simulator (RUN)
	$(BIN)/pgd evaluate $(OPTIONS)

report: $(STAMP) ## a page over all finished runs below folders (RUNS), or the figures of one (RUN)
	$(BIN)/pgd report $(OPTIONS)

analyse: $(STAMP) ## are generated windows likely under a policy, and real? (ENV AGENT SCALE DATA)
	$(BIN)/pgd analyse $(OPTIONS)

data: $(STAMP) ## record a dataset in the simulator (ENV STEPS SEED), or examine one (CHECK=1 ENV DATA)
	$(BIN)/pgd $(if $(call given,CHECK),check,collect) $(OPTIONS)

test: $(STAMP) ## the test suite (ARGS go to pytest)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

# dm_control 1.0.36 was released for the mujoco of requirements.lock
EXTRAS := .venv/extras/.installed
$(EXTRAS): $(STAMP) Makefile
	@echo "Installing OGBench and pyarrow beside it"
	@rm -rf .venv/extras && $(PIP) --no-deps --only-binary :all: --target .venv/extras ogbench==1.2.2 dm_control==1.0.36 \
		dm-env==1.6 dm-tree==0.1.10 labmaze==1.0.6 lxml==6.1.3 wrapt==2.5.2 pyarrow==26.0.1 && touch $@

extras: $(EXTRAS)

test-extra: $(EXTRAS) ## what needs OGBench and pyarrow, 330 MB that nothing else needs
	@PYTHONPATH=.venv/extras $(BIN)/python -m pytest tests/test_ogbench.py tests/test_minari.py $(ARGS)

test-slow: $(STAMP) ## the long checks
	@$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMP) ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP) ## mypy
	@$(BIN)/mypy

bench: $(STAMP) ## throughput on this machine
	@$(BIN)/python benchmarks/run.py $(ARGS)

lock: $(STAMP) ## resolve requirements.lock again from setup.cfg, keeping its pins (ARGS=--upgrade renews them)
	@$(BIN)/python -m venv .venv/lock && .venv/lock/bin/python -m pip -qq install pip-tools
	@printf '%s\n' 'torch==$(TORCH)' 'mujoco<3.5' > .venv/lock/torch.txt; sed -n '/^#/!q;p' requirements.lock > .venv/lock/header.txt
	.venv/lock/bin/pip-compile -q --generate-hashes --strip-extras --no-header --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --no-emit-options --annotation-style=line --unsafe-package torch \
		--extra dev -c .venv/lock/torch.txt $(ARGS) -o requirements.lock setup.cfg
	@{ cat .venv/lock/header.txt; printf '%s\n' '--only-binary :all:' '--no-binary antlr4-python3-runtime'; \
		sed '/^--/d;/^#/d;/^$$/d;s/, -c [^ ,]*torch.txt//' requirements.lock; } > .venv/lock/new && cp .venv/lock/new requirements.lock

clean: ## remove caches; runs, data and .venv stay
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find . \( -name .venv -o -name .git -o -name runs \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# setuptools first, because antlr4-python3-runtime 4.9.3 (hydra wants it) is pure Python that exists as source only.
# torch is the one package chosen by machine: without a GPU its CPU build (a tenth of the size).
$(STAMP): requirements.lock setup.cfg setup.py
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { \
	  for python in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Python 3.11 or newer is needed, but python3 is $$(python3 --version 2>&1): install it, or say PYTHON=/path/to/python3.11." >&2; exit 1; \
	  fi; \
	  echo "Creating .venv with $$("$$found" --version)"; \
	  "$$found" -m venv --clear .venv || { \
	    echo "Python's venv module is incomplete: install it (Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; }; }
	@echo "Installing pinned packages (requirements.lock)"
	@sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > .venv/setuptools.lock
	@$(PIP) --no-deps --require-hashes --only-binary :all: -r .venv/setuptools.lock
	@$(PIP) --no-deps --require-hashes --no-build-isolation -r requirements.lock
	@if [ -n "$(TORCH_INDEX)" ]; then \
	  echo "Installing torch $(TORCH) from $(TORCH_INDEX)"; \
	  $(PIP) --only-binary :all: --index-url "$(TORCH_INDEX)" torch==$(TORCH); \
	elif nvidia-smi -L 2> /dev/null | grep GPU > /dev/null; then \
	  echo "Installing torch $(TORCH) for CUDA, because there is a GPU (several GB)"; \
	  $(PIP) --only-binary :all: torch===$(TORCH) 2> /dev/null || $(PIP) --only-binary :all: torch==$(TORCH); \
	elif [ "$$(uname -s)" != Linux ] || $(BIN)/python -m pip config list | grep -E 'index-url|find-links|no-index' > /dev/null; then \
	  echo "Installing torch $(TORCH)"; \
	  $(PIP) --only-binary :all: torch==$(TORCH); \
	else \
	  echo "Installing torch $(TORCH) for CPU, because there is no GPU"; \
	  $(PIP) --only-binary :all: --extra-index-url https://download.pytorch.org/whl/cpu torch==$(TORCH); \
	fi
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@
