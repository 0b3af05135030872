# Every command of this project; CI runs the same ones.
.DEFAULT_GOAL := help
.PHONY: help run build release test test-frameworks lint audit sbom reproduce fuzz fmt bench torture tls-audit clean \
	setup-build setup-lint setup-test setup-frameworks setup-torture setup-tls rocksdb
# The steps of a target need each other in order; cargo is the one that works in parallel.
.NOTPARALLEL:

CARGO := cargo
BINARIES := -p keybrake-dataplane -p keybrake-admin -p keybrake-loadtest

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: release ## build everything and start keybrake on this machine
	@exec scripts/run.sh

build: rocksdb ## build the binaries for development
	$(CARGO) build --locked $(BINARIES)

release: rocksdb ## build the binaries, optimized
	$(CARGO) build --locked --release $(BINARIES)

test: setup-test rocksdb ## check format and lints, run all tests over io_uring and epoll
	@scripts/test.sh

test-frameworks: setup-frameworks rocksdb ## run the examples for CrewAI, LangGraph, AutoGen, Agno; installs 1.6 GB
	@scripts/test.sh frameworks

lint: setup-lint rocksdb ## check format, lints and, with cargo-deny, the dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@scripts/audit.sh

audit: ## check the dependencies; installs cargo-deny, which takes some minutes
	@scripts/audit.sh install

sbom: ## list the parts of the binaries, as CycloneDX, in target/sbom
	@scripts/sbom.py keybrake-dataplane keybrake-admin

reproduce: rocksdb ## build the published binaries twice and compare them; takes as long as two releases
	@scripts/reproduce.sh

fuzz: ## give each parser random bytes, with a nightly compiler: [TARGET=policy] [SECONDS=300]
	@TARGET='$(TARGET)' SECONDS_EACH='$(or $(SECONDS),300)' scripts/fuzz.sh

fmt: setup-lint ## format the code
	$(CARGO) fmt

bench: rocksdb ## run the benchmarks
	$(CARGO) bench --locked -p keybrake-benches

torture: setup-torture rocksdb ## kill, cut, fill and starve it for 30 minutes, and judge: [PART=kill] [SEED=n] [ROUNDS=n]
	@PART='$(PART)' SEED='$(SEED)' ROUNDS='$(ROUNDS)' scripts/torture.sh

tls-audit: setup-tls rocksdb ## judge its TLS by tlslite-ng and testssl.sh; five minutes
	@scripts/tls-audit.sh

clean: ## remove what cargo built; RocksDB and the virtualenvs stay in the cache directory
	$(CARGO) clean

setup-build:
	@scripts/setup.sh build

setup-lint:
	@scripts/setup.sh lint

setup-test:
	@scripts/setup.sh test

setup-frameworks:
	@scripts/setup.sh frameworks

setup-torture:
	@scripts/setup.sh torture

setup-tls:
	@scripts/setup.sh tls

# After the packages: it needs their compiler. Ten to twenty minutes the first time, nothing afterwards.
rocksdb: setup-build
	@scripts/rocksdb.sh
