#!/bin/sh
# Checks on one GPU all that only a GPU can show, in about ten minutes. The report is logs/gpu_check.xml.
# Usage: sh runs/gpu_check.sh [--device cpu] [-k network|inference|training] [pytest arguments]     --device cpu: a rehearsal
set -eu
. "$(dirname "$0")/usage.sh"
needs=requirements-dev.txt
. "$(dirname "$0")/setup.sh"
cd "$root"
export WAVEGRAD_TESTS=gpu
if [ "${1-} ${2-}" = "--device cpu" ]; then
    shift 2
    WAVEGRAD_TESTS=
fi
exec "$python" -m pytest -rA -m gpu --junitxml=logs/gpu_check.xml tests/test_gpu.py "$@"
