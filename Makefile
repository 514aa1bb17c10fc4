# Everything a fresh Debian machine needs is installed by these targets, and every one is safe to run twice.
PY := .venv/bin/python
SHELL := /bin/bash

.PHONY: install crds check try demo demo-rag demo-loop demo-down test test-fast bench-operator bench-serving bench-telemetry bench-rollout bench-tools bench-feedback bench-soak bench-pod bench-page schedules mutants locks binaries clean

install: .venv/.stamp            ## the virtual environment, from the lock file

.venv/.stamp: locks/dev.txt pyproject.toml
	@echo "Installing the Python environment"
	@test -x $(PY) || python3 -m venv .venv
	@$(PY) -m pip install -q uv
	@.venv/bin/uv pip sync -q --python $(PY) locks/dev.txt
	@.venv/bin/uv pip install -q --python $(PY) --no-deps -e .
	@touch $@

binaries: install                ## Kubernetes, CoreDNS, Helm, metrics-server and kwok from source, once
	@$(PY) hack/localcluster.py build

crds: install                    ## regenerate the CRDs from the models
	@$(PY) -m despina.cli crds --folder crds
	@cp crds/*.yaml charts/despina/files/crds/

check: install                   ## formatting, lint, types, imports
	@.venv/bin/ruff format --check -q .
	@.venv/bin/ruff check -q .
	@.venv/bin/mypy
	@PYTHONPATH=operator:runtime_image .venv/bin/lint-imports

try: install                     ## the example without a cluster, on http://localhost:8080/docs
	@$(PY) hack/try_it.py

demo: install                    ## the example on a real Kubernetes, with a release under traffic
	@$(PY) hack/demo.py

demo-rag: install                ## retrieval through tools on AWS (a fake) and pgvector, on a real Kubernetes
	@$(PY) hack/rag.py

demo-loop: install               ## what callers say makes the program better, on a real Kubernetes; wrong labels are refused
	@$(PY) hack/demo_loop.py

demo-down:                       ## end what a demo left running
	@test ! -x $(PY) || $(PY) hack/demo.py down

test-fast: install               ## what needs no cluster
	@.venv/bin/pytest -q -n2

test: install check              ## everything that this machine can run
	@$(PY) hack/test.py

bench-operator: install          ## 100 programs: time to Deployment, memory, writes at rest
	@$(PY) hack/bench_operator.py

bench-serving: install           ## Despina beside hand-written servers and mlflow models serve
	@$(PY) hack/bench_serving.py

bench-telemetry: install         ## what figures and traces cost, beside a pod that has none
	@$(PY) hack/bench_telemetry.py

bench-rollout: install           ## every kind of change under 100 requests a second, over 10,000 each
	@$(PY) hack/bench_rollout.py

schedules: install               ## 10,000 schedules of each kind of the simulated world, two kinds at a time
	@SCHEDULES=10000 .venv/bin/pytest -q -n 2 --dist worksteal tests/unit/test_rollout_schedules.py

mutants: install                 ## 300 changes of the decisions, one at a time: which does no test notice?
	@$(PY) hack/mutants.py

bench-tools: install             ## calls of tools by name: overhead, routing, failover, at most once
	@$(PY) hack/bench_tools.py

bench-feedback: install          ## what feedback costs, and labels through kills, releases and an MLflow that hangs: is one lost?
	@$(PY) hack/bench_feedback.py

bench-page: install              ## the page with 1,000 programs: first paint, CPU, memory, from event to page, axe, Lighthouse
	@$(PY) hack/bench_page.py

bench-soak: install              ## ten minutes of mixed load at 80 % of what a pod can do, with a hot swap every 20 s
	@SOAK_SECONDS=600 .venv/bin/pytest -q tests/runtime/test_soak.py

bench-pod: install               ## workers lost in every way, ten rounds each, under 100 requests a second; 1,000 calls of what may run once; 10,000 requests with secrets
	@POD_ROUNDS=10 .venv/bin/pytest -q -n0 tests/runtime/test_workers.py -k is_lost
	@ONCE_REQUESTS=1000 SHARING_TURNS=157 .venv/bin/pytest -q -n0 tests/runtime/test_once.py tests/runtime/test_sharing.py

locks: install                   ## newer versions of everything
	@rm -f locks/*.txt
	@.venv/bin/uv pip compile -q pyproject.toml --extra operator --extra runtime --group dev --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -o locks/dev.txt
	@for e in operator runtime; do .venv/bin/uv pip compile -q pyproject.toml --extra $$e -c locks/dev.txt --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -o locks/$$e.txt; done

clean: demo-down                 ## the environment and all outputs; the cached binaries stay
	@rm -rf .venv out
