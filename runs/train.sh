#!/bin/sh
# Trains a WaveGrad: one process for each visible GPU, or one on the CPU.
# Usage: sh runs/train.sh -c CONFIG [-l LOGDIR] [--nproc N]
# --nproc N: N processes; on a CPU they share its cores.
set -eu
. "$(dirname "$0")/setup.sh"

nproc=
n_arguments=$#
while [ "$n_arguments" -gt 0 ]; do
    argument=$1
    shift
    n_arguments=$((n_arguments - 1))
    case $argument in
    --nproc)
        nproc=${1-}
        [ $# -eq 0 ] || { shift; n_arguments=$((n_arguments - 1)); }
        ;;
    --nproc=*) nproc=${argument#--nproc=} ;;
    *) set -- "$@" "$argument" ;;
    esac
done

if [ -z "$nproc" ]; then
    nproc=$("$python" -c 'import torch; print(max(torch.cuda.device_count(), 1))')
fi
case $nproc in
*[!0-9]* | 0)
    echo "error: --nproc is '$nproc' (wanted: a number from 1 on)" >&2
    exit 2
    ;;
esac
if [ "$nproc" -eq 1 ]; then
    exec "$python" "$root/train.py" "$@"
fi
cores=$(getconf _NPROCESSORS_ONLN)
threads=$((cores / nproc))
[ "$threads" -ge 1 ] || threads=1
OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads} exec "$python" -m torch.distributed.run \
    --standalone --nproc_per_node "$nproc" "$root/train.py" "$@"
