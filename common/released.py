"""The released model and its schedule: for the demo, `hubconf.py` and whoever names no other."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "checkpoints" / "universal-22k.safetensors"
SCHEDULE = ROOT / "schedules" / "universal-22k-1.json"
