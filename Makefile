# What README and .ci/run call. `make` alone lists the targets.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tholepin/target
DEBUG := $(CARGO_TARGET_DIR)/debug
PLUGIN_BUILD := $(CARGO_TARGET_DIR)/wasm32-wasip2/plugin
# Where the running demo looks for plugins; outside the tree, so that a rename is all it sees.
PLUGINS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tholepin/plugins

.PHONY: help setup build plugins demo test check fmt clippy doc crds clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## Install what this machine lacks
	@./setup

build: setup ## Build the host
	cargo build --locked --workspace

plugins: setup ## Build the plugins and put them where the running demo sees them
	cargo build --locked --profile plugin --target wasm32-wasip2 --package redis-cluster
	@mkdir -p $(PLUGINS)
	@cp -f plugins/redis-cluster/redis-cluster.yaml $(PLUGINS)/.redis-cluster.yaml.new
	@cp -f $(PLUGIN_BUILD)/redis_cluster.wasm $(PLUGINS)/.redis-cluster.wasm.new
	@mv -f $(PLUGINS)/.redis-cluster.wasm.new $(PLUGINS)/redis-cluster.wasm
	@mv -f $(PLUGINS)/.redis-cluster.yaml.new $(PLUGINS)/redis-cluster.yaml

demo: build plugins ## Start the local host with an example RedisCluster (CI=1: end when Ready)
	$(DEBUG)/tholepin demo --plugins $(PLUGINS) $(if $(CI),--ci)

test: setup build ## Run all tests
	cargo test --locked --workspace

check: setup fmt clippy doc ## Check format, lints and documentation

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

clean: ## Remove what was built
	rm -rf $(CARGO_TARGET_DIR) $(PLUGINS)
