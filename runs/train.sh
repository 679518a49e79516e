#!/bin/sh
# Trains a WaveGrad: one process for each visible GPU, or one on the CPU. The same command again goes on with the run.
# Usage: sh runs/train.sh -c CONFIG [-l LOGDIR] [--init_from WEIGHTS [--init_from_matching] [--init_step N]] [--dry-run] [--nproc N] [-- TORCHRUN_OPTIONS]
# CUDA_VISIBLE_DEVICES=0,1 sh runs/train.sh ...: on GPUs 0 and 1 alone; CUDA_VISIBLE_DEVICES= (empty): on the CPU.
# --nproc N: N processes on the CPU, which share its cores.
# TORCHRUN_OPTIONS: on several machines, for example --nnodes 2 --node_rank 0 --master_addr 10.0.0.1 --master_port 29400
set -eu
. "$(dirname "$0")/setup.sh"
exec "$python" -m training.launch "$@"
