"""What only a GPU can show: `sh runs/gpu_check.sh`. One file for each kind of check, and what they share in `context`."""
