#!/bin/sh
# Remakes what is to be seen and heard in generated_samples: a page (report/index.html) with what the released model makes of unseen
# speakers' mels in 1, 2, 3, 6 and 25 steps, with pictures and figures; and denoising.gif, six steps of small-16k.
# Needs the recordings of filelists/universal-22k/unseen.txt: sh runs/get_voices.sh FOLDER_OF_SPEAKERS
# Killed and started again, it goes on where it was.
# Usage: sh runs/samples.sh
set -eu
. "$(dirname "$0")/usage.sh"
no_arguments "$@"
needs=requirements-dev.txt
. "$(dirname "$0")/setup.sh"
cd "$root"
one=schedules/universal-22k-1.json
two=schedules/universal-22k-2.json
"$python" benchmark.py quality -ch checkpoints/universal-22k.safetensors --filelist filelists/universal-22k/unseen.txt \
    --recordings 20 --per_speaker --seconds 3 --audio 5 --dtype bfloat16 --metrics pesq stoi log_mel_l1 m_stft tone dnsmos distillmos \
    --schedules $one $two $two:3 $two:6 $two:25 --gla_grad 0 8 -o logs/q-unseen
rm -rf logs/samples-report
# The recordings of Allison are Debian's; those of the others are not published here.
"$python" benchmark.py report logs/q-unseen -o logs/samples-report \
    --only_mel_of bg-tuxpaint-petkov en-ljspeech-lj fi-gcompris-lewman fr-gcompris-coudoin \
    --audio_of recording griffin-lim-32 estimate-3-4 "universal-22k-1 ddim" "universal-22k-2 ddim" "universal-22k-2-in-3 ddim" \
    "universal-22k-2-in-6 ddim" "universal-22k-2-in-25 ddim"
rm -rf generated_samples/report  # only now that there is a new one
mv logs/samples-report generated_samples/report
"$python" -m runs.denoising
