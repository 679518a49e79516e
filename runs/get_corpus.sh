#!/bin/sh
# Fetches the recordings that small-16k is trained on, Debian's festvox-ru, checks them, and writes their
# filelists. Needs a Debian or Ubuntu with apt-get and dpkg, but not root; touches nothing outside the repository.
# Usage: sh runs/get_corpus.sh
set -eu
. "$(dirname "$0")/usage.sh"
no_arguments "$@"
. "$(dirname "$0")/setup.sh"
. "$root/runs/debian_package.sh"

corpus=$root/corpus/festvox-ru
work=$root/corpus/.download
n_recordings=620

if [ ! -d "$corpus" ]; then
    echo "Fetching the package festvox-ru (170 MB) ..."
    debian_package festvox-ru "$work"
    mv "$work/unpacked/usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav" "$work/wav"
    cp "$work/unpacked/usr/share/doc/festvox-ru/copyright" "$work/wav/COPYRIGHT"
    mv "$work/wav" "$corpus"
    rm -rf "$work"
fi

found=$(find "$corpus" -name 'ru_*.wav' | wc -l)
if [ "$found" -ne "$n_recordings" ]; then
    echo "error: $corpus: $found recordings (expected: $n_recordings); remove the folder and start again" >&2
    exit 2
fi
"$python" -m runs.make_filelists "$corpus" "$root/filelists/festvox-ru" --test 20 --validation 20 \
    --sample_rate 16000 --last
