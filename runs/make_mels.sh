#!/bin/sh
# Writes the mels of recordings as .npy files, by the definition of a checkpoint or a configuration.
# Usage: sh runs/make_mels.sh -ch CHECKPOINT -m RECORDINGS -o OUTPUT_DIR [--resample] [--mix_to_mono]
# All options: --help, or docs/usage.md.
set -eu
. "$(dirname "$0")/setup.sh"
exec "$python" -m runs.make_mels "$@"
