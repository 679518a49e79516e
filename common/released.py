"""The released model, and how to use it best: for the demo, `hubconf.py` and whoever names no other."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "checkpoints" / "small-16k.safetensors"
SCHEDULE = ROOT / "schedules" / "small-16k-6.json"
GLA_GRAD = 8  # iterations
