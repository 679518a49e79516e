#!/bin/sh
# Checks the sources with ruff and runs the tests; installs what they need first. Arguments go to pytest.
# Usage: sh runs/test.sh [pytest arguments, such as tests/model/test_network.py; all tests without a path]
set -eu
. "$(dirname "$0")/usage.sh"
needs=requirements-dev.txt
. "$(dirname "$0")/setup.sh"
cd "$root"
"$venv/bin/ruff" check --quiet . && "$venv/bin/ruff" format --check --quiet . || {
    echo "error: the sources do not pass ruff ($venv/bin/ruff check . ; $venv/bin/ruff format --diff .)" >&2
    exit 1
}
echo "Running the tests ..."
# A process a core, each with one thread; a file's tests share their fixtures, so they run in one process.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" -m pytest -q --numprocesses auto --dist loadfile "$@"
