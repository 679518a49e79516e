#!/bin/sh
# Remakes what is to be seen and heard in generated_samples: three test recordings and what the released model makes of their
# mels in 3, 6 and 25 steps, with and without GLA-Grad, with pictures, figures and a page (report/index.html), and an animation of
# the six steps (denoising.gif).
# Killed and started again, it goes on where it was.
# Usage: sh runs/samples.sh
set -eu
. "$(dirname "$0")/usage.sh"
no_arguments "$@"
. "$(dirname "$0")/setup.sh"
cd "$root"
schedule=schedules/small-16k-6.json
"$python" benchmark.py quality -ch checkpoints/small-16k.safetensors --filelist filelists/samples.txt --audio 3 \
    --metrics pesq stoi log_mel_l1 mcd --schedules $schedule:3 $schedule $schedule:25 --gla_grad 0 8 -o logs/samples
rm -rf logs/samples-report
"$python" benchmark.py report logs/samples -o logs/samples-report
rm -rf generated_samples/report  # only now that there is a new one
mv logs/samples-report generated_samples/report
"$python" benchmark.py animation -ch checkpoints/small-16k.safetensors -ns $schedule \
    -r generated_samples/recordings/ru_0836.flac -o generated_samples/denoising.gif
