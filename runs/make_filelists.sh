#!/bin/sh
# Writes train.txt, validation.txt and test.txt for a folder of recordings; the same split every time.
# Usage: sh runs/make_filelists.sh DIR [OUTPUT_DIR] [--test N] [--validation N] [--by_folder [--unseen NAME ...]]
set -eu
. "$(dirname "$0")/setup.sh"
exec "$python" -m runs.make_filelists "$@"
