# What README and .ci/run call. `make` alone lists the targets.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tholepin
export CARGO_TARGET_DIR ?= $(CACHE)/target
# Where the running demo looks for plugins; outside the tree, so that a rename is all it sees.
PLUGINS ?= $(CACHE)/plugins

WASM := $(CARGO_TARGET_DIR)/wasm32-wasip2/plugin
BUILD_WASM := cargo build --locked --profile plugin --target wasm32-wasip2
# The set-up puts a kubectl there only if the machine has none that is new enough.
KUBECTL_OWN = $(wildcard $(CACHE)/bin/kubectl)
WITH_KUBECTL = $(if $(KUBECTL_OWN),KUBECTL=$${KUBECTL:-$(KUBECTL_OWN)})

comma := ,

.PHONY: help setup setup-tests build wasm plugins demo test attacks scenarios faults chaos oracles bench check fmt clippy doc crds clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## Install what this machine lacks
	@./setup

setup-tests:
	@./setup --tests

build: setup
	cargo build --locked --workspace

wasm: setup
	$(BUILD_WASM) --package redis-cluster --package guest-config-maker --package guest-probe \
		--package guest-rogue --package guest-attacks

plugins: setup ## Build the plugins and put them where the running demo sees them
	$(BUILD_WASM) --package redis-cluster
	@mkdir -p $(PLUGINS)
	@cp -f plugins/redis-cluster/redis-cluster.yaml $(PLUGINS)/.redis-cluster.yaml.new
	@cp -f $(WASM)/redis_cluster.wasm $(PLUGINS)/.redis-cluster.wasm.new
	@mv -f $(PLUGINS)/.redis-cluster.wasm.new $(PLUGINS)/redis-cluster.wasm
	@mv -f $(PLUGINS)/.redis-cluster.yaml.new $(PLUGINS)/redis-cluster.yaml

demo: build plugins ## Start the local host with an example RedisCluster (CI=1: end when Ready)
	$(CARGO_TARGET_DIR)/debug/tholepin demo --directory $(CACHE)/demo --plugins $(PLUGINS) $(if $(CI),--ci)

test: setup-tests build wasm ## Run all tests
	$(WITH_KUBECTL) cargo test --locked --workspace

attacks: setup-tests build wasm ## Print what hostile plugins try, and what refuses it (N=NAME,NAME: these)
	$(WITH_KUBECTL) cargo test --locked --workspace --test attacks -- $(subst $(comma), ,$(N))

scenarios: setup-tests build wasm ## Run the scenarios one after the other (N=F1,F7: these; COMMIT=HASH: three minutes of them)
	$(WITH_KUBECTL) cargo test --locked --workspace --test scenarios -- \
		$(if $(COMMIT),--sample $(COMMIT) $(or $(MINUTES),3),$(if $(N),--only $(N),--all))

faults: setup-tests build wasm ## Print the table of faults (N=4,7a@1x1: these; COMMIT=HASH: a minute of them)
	$(WITH_KUBECTL) cargo test --locked --workspace --test faults -- \
		$(if $(COMMIT),--minute $(COMMIT),$(if $(N),--only $(N),--all))

chaos: ## Random faults on a cluster with and without storage (SEED=7 MINUTES=20)
	$(MAKE) faults N=random

oracles: setup-tests build wasm ## Show that each deliberate violation fails its check
	$(WITH_KUBECTL) cargo test --locked --workspace --test oracles

bench: setup-tests wasm ## Measure swap and failover in a release build; JSON beside
	cargo build --locked --release --workspace
	XDG_CACHE_HOME=$(CACHE)/bench $(WITH_KUBECTL) $(CARGO_TARGET_DIR)/release/bench $(CACHE)/bench.json

check: setup fmt clippy doc ## Check format, lints and documentation

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

crds: ## Write the generated CustomResourceDefinitions
	cargo run --locked --quiet --package tholepin-redis-types --features schema --example crds -- crds

clean: ## Remove what was built
	rm -rf $(CARGO_TARGET_DIR) $(PLUGINS)
