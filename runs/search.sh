#!/bin/sh
# Finds a six-step noise schedule for small-16k from scratch, on the validation recordings; fetches them first.
# Killed and started again, it goes on where it was. Writes logs/search/small-16k-6.json and its journal.
# Usage: sh runs/search.sh [OPTIONS]     options of 'benchmark.py search' that replace the ones below
set -eu
needs=requirements-dev.txt
. "$(dirname "$0")/setup.sh"
needs_corpus=yes
for argument in "$@"; do
    case $argument in -h | --help | --filelist | --filelist=*) needs_corpus=no ;; esac
done
[ "$needs_corpus" = no ] || [ -d "$root/corpus/festvox-ru" ] || sh "$root/runs/get_corpus.sh"
exec "$python" "$root/benchmark.py" search --checkpoint "$root/checkpoints/small-16k.safetensors" \
    --filelist "$root/filelists/festvox-ru/validation.txt" --steps 6 --sampler dpm-solver --output "$root/logs/search/small-16k-6.json" "$@"
