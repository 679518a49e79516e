#!/bin/sh
# A page on this machine (http://127.0.0.1:7860) to try the vocoder with your own recordings; installs what it needs first.
# Usage: sh runs/app.sh [--port PORT] [--longest SECONDS]
set -eu
needs=requirements-app.txt
. "$(dirname "$0")/setup.sh"
exec "$python" -m runs.app "$@"
