"""Kills a run again and again at random moments, and compares its end with that of a run never interrupted.

Run by hand, through the real command: python tests/kill_resume_stress.py --kills 50 --nproc 2 --precision bf16
"""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.processes import TRAINING, run_to_end, start
from tests.training_fixtures import same, weights_of, write_run
from training.run_folder import RunFolder


def newest_step(logdir):
    found = RunFolder(logdir, keep=3).checkpoints()
    return int(re.findall(r"\d+", found[-1].stem)[-1]) if found else -1


def train_whole(config, logdir, nproc):
    result = run_to_end(*TRAINING, "-c", config, "-l", logdir, "--nproc", nproc, timeout=None)
    assert result.returncode == 0, result.stderr


def kill_once(config, logdir, nproc, rng):
    """Starts the command and kills it: all its processes or, one time in three, only the one that was started.

    Mostly within the time that a few steps take; one time in five at any moment of the start.
    """
    process = start(*TRAINING, "-c", config, "-l", logdir, "--nproc", nproc)
    began = time.monotonic()
    if rng.random() < 0.8:
        line = process.stdout.readline()  # it has begun
        time.sleep(rng.random() * 1.5)
    else:
        line = "(starting)"
        time.sleep(rng.random() * 5)
    ended = process.poll() is not None
    if rng.random() < 1 / 3:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    temporary = len(list(Path(logdir).glob(".*.tmp")))
    moment = time.monotonic() - began
    print(f"killed after {moment:.1f} s, at step {newest_step(logdir)} or later; {temporary} half-written files; {line.strip()}")
    process.stdout.close(), process.stderr.close()
    return ended


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        changes = {
            "training__n_steps": arguments.steps,
            "training__precision": arguments.precision,
            "training__save_every": 3,
            "training__validate_every": 50,
            "training__log_every": 1,
        }
        config = write_run(folder, **changes)
        train_whole(config, folder / "whole", arguments.nproc)
        in_vain = 0
        for _ in range(arguments.kills):
            config = write_run(folder, **changes, data__n_workers=rng.choice([0, 1, 2]))
            in_vain += kill_once(config, folder / "killed", arguments.nproc, rng)
        train_whole(config, folder / "killed", arguments.nproc)
        name = f"checkpoint-{arguments.steps:08d}.pt"
        whole, killed = weights_of(folder / "whole" / name), weights_of(folder / "killed" / name)
        different = [key for key in whole if not same(whole[key], killed[key])]
    result = f"different: {', '.join(different)}" if different else "bit-identical to the run never interrupted"
    print(f"{arguments.kills - in_vain} kills, {arguments.nproc} processes, {arguments.precision}: {result}")
    return 1 if different or in_vain else 0


if __name__ == "__main__":
    sys.exit(main())
