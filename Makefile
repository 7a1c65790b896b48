# The commands of this project. `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help run test faults faults-short setup lint fmt doc deny advisories check-deploy autobahn abuse bench microbench

help: ## Lists these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|' 2>/dev/null \
		|| grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST)

run: ## Starts natter in one process; its files are in ./data
	@echo 'Building (the first time takes some minutes) …'
	@cargo build --release --package natter --bin natter
	@exec ./target/release/natter

setup: ## Installs what the tests need, and says what
	@tests/setup.sh >/dev/null

# One build for all: the integration tests start the binaries that lie beside them. They have the
# failpoints of `make faults SABOTAGE=…` in them, so that these need no build of their own.
test: ## Runs every test; installs what is missing (PostgreSQL, Chromium, a NATS server)
	@server=$$(tests/setup.sh) && export NATTER_TEST_NATS_SERVER="$$server" NATTER_TEST_SKIPPED="$(CURDIR)/target/skipped-tests" \
		&& mkdir -p target && : >"$$NATTER_TEST_SKIPPED" \
		&& npm --prefix tests/js run --silent unit && npm --prefix tests/js run --silent types \
		&& cargo build --workspace --bins --features failpoints \
		&& { cargo test --workspace --features failpoints; status=$$?; sed 's/^/skipped: /' "$$NATTER_TEST_SKIPPED"; exit $$status; }

# A sabotage needs failpoints, which a release never has.
faults: ## Makes everything go wrong under traffic: SEED=, FAULTS=a,b, ROUNDS=, LONG=1, SABOTAGE=name or all
	@server=$$(tests/setup.sh) && export NATTER_TEST_NATS_SERVER="$$server" \
		&& if [ -n "$(SABOTAGE)" ]; then \
			cargo build --workspace --bins --features failpoints && ./target/debug/natter-faults --sabotage "$(SABOTAGE)"; \
		else \
			cargo build --release --workspace --bins \
				&& ./target/release/natter-faults $(if $(LONG),--long) $$(echo "$(FAULTS)" | tr , ' '); \
		fi

# What CI has time for: some faults in short, each under which a sabotage shows among them, and that each sabotage is found.
faults-short:
	@server=$$(tests/setup.sh) && export NATTER_TEST_NATS_SERVER="$$server" \
		&& cargo build --workspace --bins --features failpoints \
		&& ./target/debug/natter-faults --short calm gateway-kill nats-restart lost-acks joins late-copy persister-kill database-down \
		&& ./target/debug/natter-faults --sabotage all

lint: ## Checks format, lints, docs
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --benches --features natter-gateway/bench -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --quiet

fmt: ## Formats the code
	cargo fmt --all

doc: ## Builds the docs of the crates
	cargo doc --workspace --no-deps --document-private-items

deny: ## Checks licences, sources and banned crates (needs cargo-deny)
	cargo deny --workspace check bans licenses sources

advisories: ## Checks for known vulnerabilities; online (needs cargo-deny)
	cargo deny --workspace check advisories

check-deploy: ## Checks deploy/: image, compose file, proxies, Helm chart; builds Helm the first time
	tests/deploy/check.sh

autobahn: ## Has the Autobahn test suite judge our WebSocket; needs a Python 2.7
	tests/autobahn.sh

abuse: ## Measures what hostile clients cost a gateway; prints a table
	@server=$$(tests/setup.sh) && export NATTER_TEST_NATS_SERVER="$$server" \
		&& cargo build --release --workspace --bins \
		&& cargo test --release --workspace --test natter -- --ignored --nocapture abuse

# Ten thousand connections are as many open files, on either side.
bench: ## Measures Natter and a bare loop in turn, prints medians: ROUNDS=, SCENARIOS=a,b, DEFAULT_SYNC=1
	@server=$$(tests/setup.sh) && export NATTER_TEST_NATS_SERVER="$$server" \
		&& cargo build --release --workspace --bins \
		&& ulimit -n "$$(ulimit -Hn)" \
		&& ./target/release/natter-bench $(if $(DEFAULT_SYNC),--default-sync) $$(echo "$(SCENARIOS)" | tr , ' ')

microbench: ## Measures single steps of a publication's way: decoding, encoding, pushing, the ring
	cargo bench --workspace --features natter-gateway/bench --bench codec --bench delivery
