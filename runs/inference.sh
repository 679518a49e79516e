#!/bin/sh
# Vocodes the mel files of a filelist (or resynthesises its audio files) into wav files.
# Usage: sh runs/inference.sh -c CONFIG -ch CHECKPOINT -ns SCHEDULE -m MEL_FILELIST -v yes [-o OUTPUT_DIR]
# All options: --help, or docs/usage.md.
set -eu
. "$(dirname "$0")/setup.sh"
exec "$python" "$root/inference.py" "$@"
