# The commands of the README. `make` alone lists them.

.DEFAULT_GOAL := help
# rustup's own installer puts cargo here; a new shell would have it on PATH, this one may not. Before a distribution's.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
# Stages tell how long the whole has run.
ifndef VINCS_STARTED
export VINCS_STARTED := $(shell date +%s)
endif
# As given, without make's own expansion of $: the node's shell expands it.
export TESTBED_CMD := $(value CMD)

CARGO := cargo
CARGO_QUIET := $(if $(findstring s,$(filter-out --%,$(firstword -$(MAKEFLAGS)))),--quiet)
STAGE := scripts/stage.sh
BINARIES := --package vincs-guest --package vincs-omp --package vincs-launcher --package vincs-mpi --package vincs-testbed --package vincs-npb
# What the binaries are built with, and so what is tested; lint looks at the launcher without it, too.
FEATURES := --features vincs-launcher/rdma
# With the binaries, as what is chosen together is compiled once: by itself a benchmark would have most of it compiled anew.
BENCHMARK := $(CARGO) build --release --locked $(CARGO_QUIET) $(BINARIES) --package vincs-benchmarks $(FEATURES) --bin

# Tests that boot emulated nodes, those that take longest first, and those that take minutes each. tests/Cargo.toml names them too: cargo runs them only
# when asked for by name.
NODE_TESTS := cluster boot wide hosts transport elastic
LONG_TESTS := long

.PHONY: help setup build kernel soft-iwarp demo test test-long testbed lint bench-boot bench-ranks bench-coherence bench-rdma bench-hlrc bench-npb bench-elastic cost-model $(NODE_TESTS:%=test-%)

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

setup: ## Install what is missing (packages, Rust toolchain), and nothing else
	@$(STAGE) 'Set-up: install what is missing' scripts/setup.sh

build: ## Build the release binaries
	@$(CARGO) build --release --locked $(CARGO_QUIET) $(BINARIES) $(FEATURES)

kernel: build ## Fetch the stock guest kernel into the cache, if it is not there
	@target/release/testbed fetch-kernel

soft-iwarp: kernel ## Build soft-iWARP for emulated nodes into the cache, if it is not there: Debian's kernels are without
	@target/release/testbed fetch-soft-iwarp

demo: setup ## Boot a guest on this machine, or in the testbed, and run a job in it
	@$(STAGE) 'Build' $(MAKE) --no-print-directory build
	@$(STAGE) 'Guest kernel' $(MAKE) --no-print-directory kernel
	@$(STAGE) 'Demo' scripts/demo.sh $(RANKS)

test: setup ## Install what is missing and run every check and test
	@$(STAGE) 'Build of the release binaries' $(MAKE) --no-print-directory build
	@$(STAGE) 'Guest kernel, soft-iWARP of emulated nodes' $(MAKE) --no-print-directory soft-iwarp
	@$(MAKE) --no-print-directory lint
	@$(STAGE) 'Build of the tests' $(CARGO) test --workspace $(FEATURES) --locked --no-run $(CARGO_QUIET)
	@$(STAGE) 'Tests' $(CARGO) test --workspace $(FEATURES) --locked
	@$(STAGE) 'Tests of whole machines' $(MAKE) --no-print-directory --output-sync=target --jobs=$(shell nproc) $(NODE_TESTS:%=test-%)
	@$(STAGE) 'All passed' true

test-long: setup build kernel ## What takes minutes each: a minute of stress on 2, 4 and 8 ranks, builds on 4 and 8, all of it over RDMA, moves by the thousand
	@$(STAGE) 'Long tests' $(CARGO) test --workspace $(FEATURES) --locked $(LONG_TESTS:%=--test %)

# Each boots an emulated node of one processor, or two small ones that mostly take turns, so there are as many at once as this machine has processors.
$(NODE_TESTS:%=test-%): test-%:
	@$(STAGE) 'Machines: $*' $(CARGO) test --workspace $(FEATURES) --locked --test $*

lint: ## Formatting, clippy, documentation, shell scripts; warnings are errors
	@$(STAGE) 'Formatting' $(CARGO) fmt --all --check
	@$(STAGE) 'Clippy' $(CARGO) clippy --workspace --all-targets $(patsubst %,--test %,$(NODE_TESTS) $(LONG_TESTS)) $(FEATURES) --locked -- -D warnings
	@$(STAGE) 'Clippy of the launcher without RDMA' $(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@RUSTDOCFLAGS='-D warnings' $(STAGE) 'Documentation' $(CARGO) doc --workspace --no-deps --document-private-items $(FEATURES) --locked
	@$(STAGE) 'Shell scripts' shellcheck scripts/*.sh scripts/demo/*.sh tests/testbed/src/node/*.sh tests/tests/*.sh tests/tests/*/*.sh slurm/*.sh .ci/run

testbed: build ## Run CMD='…' in an emulated node (TESTBED_OPTIONS='--cpus 4 …')
	@target/release/testbed $(TESTBED_OPTIONS) run --sh "$$TESTBED_CMD"

bench-boot: build ## Boot time against QEMU's microvm, and KVM exit times; prints the ratios
	@$(BENCHMARK) bench-boot
	@target/release/bench-boot
	@if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then \
		$(BENCHMARK) bench-exit && target/release/bench-exit; \
	else \
		echo 'bench-exit: not run, as /dev/kvm is missing or not open to this user'; \
	fi

bench-ranks: build ## Boot time of machines of 2, 4 and 8 ranks in the testbed against one rank's (RANKS='2 4'); ten minutes
	@scripts/bench-ranks.sh $(RANKS)

bench-rdma: build ## The RDMA transport over soft-RoCE in the testbed, beside perftest's tools: latencies, bandwidth, costs
	@$(BENCHMARK) bench-rdma
	@target/release/testbed --timeout 1800 run -- target/release/bench-rdma --address 10.0.2.15

cost-model: ## What faults cost and how many there can be, on machines that nobody has at hand: predicted, simulated, and checked
	@$(BENCHMARK) cost-model
	@target/release/cost-model

bench-coherence: ## Memory that is spread over ranks, natively: misses, upgrades, streams, each beside its floor
	@$(BENCHMARK) bench-coherence
	@target/release/bench-coherence

bench-hlrc: ## Differences of pages of relaxed memory, and hashes of pages, beside comparing and copying them
	@$(BENCHMARK) bench-hlrc
	@target/release/bench-hlrc

bench-npb: ## Programs on two ranks with relaxed memory, beside strict memory and threads; barriers, releases and hand-overs beside their floors
	@$(BENCHMARK) bench-npb
	@target/release/bench-npb

bench-elastic: ## Processors that move, ranks that join and leave, homes that move, natively: each beside its floor; four minutes
	@$(BENCHMARK) bench-elastic
	@target/release/bench-elastic
