#!/usr/bin/env bash
# Everything about Motet that needs a GPU, in one command of at most eight minutes: what is there, a short demo, the
# tests marked `gpu`, and the parts of benchmarks/gpu.py. Made for a bare machine: a checkout, a Python with torch, no
# network, nothing installed. Each part is bounded; what it found is written to OUT as it ends.
#
#     bash benchmarks/gpu.sh [OUT]              OUT: a folder, build/gpu by default
#     bash benchmarks/gpu.sh --rehearse [OUT]   on the CPU with tiny models: does it run? No figure means anything
#
# PYTHON names the interpreter (default python3). Packages that it lacks can be carried along as wheels in .wheels/,
# which git ignores. Fetch them where there is a network, for that Python, for example:
#     python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#         --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 -d .wheels greenlet xxhash
set -uo pipefail
cd "$(dirname "$0")/.."
rehearse=
if [ "${1:-}" = --rehearse ]; then rehearse=--rehearse; shift; fi
out=${1:-build/gpu}
python=${PYTHON:-python3}
mkdir -p "$out" || exit 2
limit=470
left() { echo $((limit - SECONDS)); }
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT

export PYTHONPATH=$scratch/site:$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
# Bytecode that cannot be kept is compiled anew in every process: ten seconds each where torch is installed read-only.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX=$scratch/bytecode
if [ -n "$rehearse" ]; then export CUDA_VISIBLE_DEVICES=; fi
if compgen -G '.wheels/*.whl' >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$scratch/site" .wheels/*.whl ||
    exit 2
fi

{
  command -v nvidia-smi >/dev/null && nvidia-smi -L
  "$python" - <<'PYTHON'
import importlib, platform, sys

lacking = []
for name in ("torch", "numpy", "greenlet", "yaml", "rich", "xxhash", "pytest", "pytest_timeout", "hypothesis"):
    try:
        module = importlib.import_module(name)
    except ImportError:
        lacking.append(name)
    else:
        print(name, getattr(module, "__version__", ""))
if lacking:
    sys.exit(f"{sys.executable} lacks {', '.join(lacking)}: put wheels for it into .wheels/ (see the head of this file).")
import torch
from motet.workers.devices import chosen_here

print("python", platform.python_version(), "accelerator", torch.accelerator.is_available(), chosen_here())
PYTHON
} 2>&1 | tee "$out/environment.txt"
[ "${PIPESTATUS[0]}" = 0 ] || exit 2

echo "demo: at most 90 s"
# The demo, made short. Its data ship with scikit-learn, which a bare machine may lack: then say so and go on.
sed -E 's/num_epochs: [0-9]+/num_epochs: 1/; s/num_steps: [0-9]+/num_steps: 20/; /turns:/d' examples/demo.yaml >"$scratch/demo.yaml"
timeout 90 "$python" -m motet run "$scratch/demo.yaml" --nproc-per-node=auto --run-dir "$scratch/demo" >"$out/demo.txt" 2>&1
demo=$?
echo "demo: status $demo"
tail -n 9 "$out/demo.txt"

echo "tests: at most 210 s"
timeout -s INT 210 "$python" -m pytest -p pytest_timeout -p no:cacheprovider -q -rfE --tb=short -m gpu tests/gpu >"$out/tests.txt" 2>&1
tests=$?
echo "tests: status $tests, $(left) s left"
tail -n 12 "$out/tests.txt"

benchmark=0
if [ "$(left)" -gt 30 ]; then
  timeout "$(left)" "$python" benchmarks/gpu.py --limit $(($(left) - 30)) --json "$out/gpu.json" $rehearse 2>"$out/gpu.err" |
    tee "$out/gpu.txt"
  benchmark=${PIPESTATUS[0]}
fi
echo "benchmark: status $benchmark, $(left) s left; everything is in $out"
[ "$demo" = 0 ] && [ "$tests" = 0 ] && { [ "$benchmark" = 0 ] || [ "$benchmark" = 124 ]; }
