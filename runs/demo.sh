#!/bin/sh
# Vocodes the mels in the repository with the released model on the CPU; installs what it needs first.
# Usage: sh runs/demo.sh
set -eu
. "$(dirname "$0")/usage.sh"
no_arguments "$@"
. "$(dirname "$0")/setup.sh"
echo "Vocoding the mels in generated_samples/voices into generated_samples/demo ..."
exec "$python" -m runs.demo
