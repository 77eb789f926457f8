# The commands of README.md. Everything is built by CMake, through CMakePresets.json; this file only
# says in which order things happen.
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)
MODEL_ROOT ?= build/models

.PHONY: all deps build dashboard demo test parity bench run clean

all: build

# Installs what is missing; the second time it does nothing.
deps:
	@deploy/deps.sh

build:
	@deploy/deps.sh build
	@test -e $(BUILD)/build.ninja || cmake --preset $(PRESET) \
	    $(if $(wildcard build/torch-root),-DABLATE_TORCH_ROOT=$$(cat build/torch-root)) >/dev/null
	@cmake --build $(BUILD) --parallel $(JOBS) --target ablated ablate

# The browser's side of the daemon, which serves it from clients/web/dist.
dashboard:
	@deploy/deps.sh dashboard
	@npm --prefix clients/web run --silent build

demo:
	@deploy/demo.sh $(if $(KEEP),--keep)

test: deps
	@python3 tests/run.py

# Each recorded case with its largest difference; every program that compares, from the dev build.
parity: deps
	@cmake --preset dev >/dev/null && cmake --build build/dev --parallel $(JOBS) >/dev/null
	@python3 tests/parity.py

bench: deps build
	@python3 tests/bench/bench.py

run: build
	@mkdir -p $(MODEL_ROOT)
	$(BUILD)/bin/ablated --model-root $(MODEL_ROOT)

clean:
	rm -rf build .venv
