#!/bin/sh
# Runs the tests; installs what they need first. Arguments go to pytest.
# Usage: sh runs/test.sh [pytest arguments]
set -eu
. "$(dirname "$0")/setup.sh"
cd "$root"
echo "Running the tests ..."
exec "$python" -m pytest -q tests "$@"
