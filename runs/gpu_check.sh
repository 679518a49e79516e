#!/bin/sh
# Checks on one GPU all that only a GPU can show, in about ten minutes, and writes a report (logs/gpu_check.md).
# Usage: sh runs/gpu_check.sh [--device cpu] [--only CHECK ...] [-o REPORT.md]
set -eu
. "$(dirname "$0")/setup.sh"
exec "$python" "$root/benchmark.py" gpu_check "$@"
