#!/bin/sh
# Lays out a corpus of many speakers at 22,050 Hz in corpus/voices, a folder for each speaker.
# Fetches Debian's festvox-ru (Russian) and the prompts of asterisk-core-sounds (English, French, Italian and Russian).
# Needs a Debian or Ubuntu with apt-get and dpkg, but not root; touches nothing outside the repository.
# Usage: sh runs/get_voices.sh [FOLDER ...]     folders of speaker folders at 22,050 Hz that are to be part of it
set -eu
. "$(dirname "$0")/usage.sh"
. "$(dirname "$0")/setup.sh"
. "$root/runs/debian_package.sh"

corpus=$root/corpus/voices
work=$root/corpus/.download
mkdir -p "$corpus"

# voice SPEAKER PACKAGE: the recordings of a package as a speaker's folder.
voice() {
    [ ! -d "$corpus/$1" ] || return 0
    echo "Fetching the package $2 ..."
    debian_package "$2" "$work"
    rm -rf "$corpus/$1.tmp"
    PYTHONPATH=$packages:$PYTHONPATH "$python" -m runs.make_voices "$work/unpacked" "$corpus/$1.tmp"
    find "$work/unpacked" -path '*/doc/*' -name copyright -exec cp {} "$corpus/$1.tmp/COPYRIGHT" \;
    mv "$corpus/$1.tmp" "$corpus/$1"
    rm -rf "$work"
}

packages=$root/corpus/.packages  # apart from the environment: nothing else needs them
if [ ! -d "$packages/av" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --target "$packages" av >&2
fi
voice ru-festvox-nsh festvox-ru
# The validation and test recordings of filelists/festvox-ru are its last forty: they stay apart.
if [ ! -d "$corpus/ru-festvox-nsh-held-out" ]; then
    mkdir "$corpus/ru-festvox-nsh-held-out"
    for number in $(seq 581 620); do mv "$corpus/ru-festvox-nsh/ru-festvox-nsh-$number.flac" "$corpus/ru-festvox-nsh-held-out"; done
fi
voice fr-asterisk asterisk-core-sounds-fr-g722
voice it-asterisk asterisk-core-sounds-it-g722
voice ru-asterisk asterisk-core-sounds-ru-g722
voice en-asterisk-allison asterisk-core-sounds-en-g722
for folder in "$@"; do
    for speaker in "$folder"/*/; do
        ln -sfn "$(cd "$speaker" && pwd)" "$corpus/$(basename "$speaker")"
    done
done
for speaker in "$corpus"/*/; do
    echo "$speaker: $(find -L "$speaker" -name '*.flac' | wc -l) recordings"
done
