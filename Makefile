# Everything runs from a bare clone: tools/bootstrap.py installs what is missing and makes .venv.
# PYTHON picks the interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
BOOTSTRAP = "$(PYTHON)" tools/bootstrap.py
# As many tests at a time as there are processors: ctest's by the variable, pytest's by -n.
IN_VENV = env PATH="$(CURDIR)/.venv/bin:$$PATH" VIRTUAL_ENV="$(CURDIR)/.venv" \
    CTEST_PARALLEL_LEVEL="$$(nproc)"
CXX_FILES = $(shell find benchmarks csrc tests/crash tests/engine tests/fuzz tests/headers tests/plugins -name '*.cc' -o -name '*.h' -o -name '*.c')

# GCC's ThreadSanitizer refuses the address layouts of kernels that randomise more than it knows.
NO_ASLR = $(shell setarch -R true 2>/dev/null && echo setarch -R)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test sanitize fuzz torture emulate lint format headers interop frameworks mutants gpu bench clean distclean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1\t/p' Makefile | expand -t 18

demo:  ## save and load LeNet5 in every mode, with sizes and speeds
	@$(BOOTSTRAP)
	$(IN_VENV) python benchmarks/demo.py

test:  ## the engine's tests (ctest) and the Python tests
	@$(BOOTSTRAP) --extra test
	$(IN_VENV) cmake --workflow --preset release
	$(IN_VENV) python -m pytest -n auto --dist worksteal --ignore=tests/interop \
	    --ignore=tests/frameworks --ignore=tests/gpu tests

sanitize:  ## the engine's tests under ASan with UBSan, and under TSan
	@$(BOOTSTRAP) --extra test
	$(IN_VENV) cmake --workflow --preset asan
	@# One at a time: threads of two tests that spin for each other take minutes under TSan.
	$(IN_VENV) CTEST_PARALLEL_LEVEL=1 $(NO_ASLR) cmake --workflow --preset tsan

fuzz:  ## the reader's fuzz target under ASan with UBSan, for FUZZ_SECONDS (60)
	@"$(PYTHON)" tools/fuzz.py

torture:  ## every failing call, kill and power cut of tests/crash; as root, with loop devices; 15 minutes
	@$(BOOTSTRAP) --extra test
	$(IN_VENV) cmake --preset release
	$(IN_VENV) cmake --build --preset release --target fault_shim
	@"$(PYTHON)" tools/torture.py

emulate:  ## the engine's tests of kernels on an emulated processor with AVX-512 and GFNI; needs Debian
	@$(BOOTSTRAP) --extra test
	$(IN_VENV) cmake --preset release
	$(IN_VENV) cmake --build --preset release
	@"$(PYTHON)" tools/emulate.py

lint:  ## formats, ruff, mypy, and a build by Clang with warnings as errors
	@$(BOOTSTRAP) --extra test --extra lint
	$(IN_VENV) clang-format --dry-run -Werror $(CXX_FILES)
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) mypy
	pybind11_DIR="$$(.venv/bin/python -c 'import pybind11; print(pybind11.get_cmake_dir())')" \
	    $(IN_VENV) cmake --workflow --preset clang

format:  ## rewrite C++ and Python as `make lint` wants them
	@$(BOOTSTRAP) --extra test --extra lint
	$(IN_VENV) clang-format -i $(CXX_FILES)
	$(IN_VENV) ruff check --fix-only .
	$(IN_VENV) ruff format .

headers:  ## our declarations of CUDA's and Ascend's functions against their real headers
	@$(BOOTSTRAP) --extra test --extra lint
	$(IN_VENV) python tools/headers.py

interop:  ## files exchanged with the real MindSpore, in .venv-interop
	@"$(PYTHON)" tools/interop.py

frameworks:  ## what users of torch, JAX and Paddle save and load, in .venv-frameworks
	@"$(PYTHON)" tools/frameworks.py

mutants:  ## plants bugs one at a time, and tells which of them no test notices; about 10 minutes
	@$(BOOTSTRAP) --extra test
	$(IN_VENV) python tools/mutants.py

gpu:  ## tests and benchmarks on a CUDA GPU within 9 minutes, without a network; GPU=--dry-run
	@"$(PYTHON)" tools/gpu.py $(GPU)

bench:  ## saves and loads against raw loops and other libraries, in .venv-bench; about 15 minutes
	@"$(PYTHON)" tools/bench.py

clean:  ## remove build outputs and caches
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name .git -prune -o -name '.venv*' -prune -o -name __pycache__ -exec rm -rf {} +

distclean: clean  ## and the virtual environments
	rm -rf .venv .venv-interop .venv-frameworks .venv-gpu .venv-bench
