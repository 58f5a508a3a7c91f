# What everybody needs, each with its set-up. `make help` lists it.

DEMO := assets/demo/session.mp4
CLIP ?= $(DEMO)
# The demo clip shows a drawn body already; other clips show people, who are drawn first.
LENS := $(if $(filter $(DEMO),$(CLIP)),--lens none)
SPOTTER := target/release/spotter

.DEFAULT_GOAL := help
.PHONY: help setup build run test test-arm live bench fuzz camera-test lint

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: ## system packages (where they may be installed) and ONNX Runtime
	@scripts/setup.sh

# Members and not only the program, so that `run` and `test` share every compiled dependency.
build: setup ## build the program
	cargo build --release --workspace

run: build ## coach the demo clip, in a window where there is a display; CLIP=FILE coaches another
	$(SPOTTER) replay $(CLIP) $(LENS)

test: setup ## run every test
	cargo test --release --workspace

test-arm: ## the tests of packed weights for 64-bit ARM, emulated (Debian and Ubuntu; builds the engine once more)
	scripts/test_arm.sh

live: build ## coach through the camera, with a voice
	$(SPOTTER) live

# A recording of a person, so that poses have to be found; the demo clip shows a drawn body.
PERSON ?= $(firstword $(wildcard ../shared/data/video/squats_studio.mp4))
PIN := $(if $(shell command -v taskset),taskset -c 0-1)

bench: build ## times, frames a second and memory on two cores; PERSON=FILE adds a recording of a person
	$(PIN) $(SPOTTER) replay $(DEMO) --lens none --headless --stats
ifneq ($(PERSON),)
	$(PIN) $(SPOTTER) replay $(PERSON) --headless --stats
	$(PIN) $(SPOTTER) replay $(PERSON) --headless --stats --lens none
endif

RUNS ?= 1000000

fuzz: ## broken files for every loader by cargo-fuzz; RUNS=N inputs for each, 1,000,000 if left out
	RUNS=$(RUNS) scripts/fuzz.sh

camera-test: setup ## the camera code against the kernel's test camera in a small emulated guest (x86-64 Debian; builds a probe)
	scripts/camera-test.sh

lint: setup ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	cargo clippy --release -p spotter --no-default-features -- -D warnings
