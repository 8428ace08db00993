"""Kill a distillation at random moments, resume it each time, and compare it with the unbroken run, byte for byte.

python benchmarks/resume.py --kills 5 --workers 2
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

SETTINGS = ["--student", "pspnet-mv2_035", "--crop", "32x64", "--size", "32x64", "--batch", "2", "--iters", "150"]
SETTINGS += ["--set", "data.count=40", "--set", "data.val_count=4", "--set", "train.save_every=3"]
SETTINGS += ["--set", "train.val_every=10", "--set", "train.log_every=1", "--set", "train.threads=1"]


def main() -> None:
    """Run it and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kdc-resume-"))
    try:
        result = measure(folder, options.kills, options.workers, random.Random(options.seed))
    finally:
        shutil.rmtree(folder)
    for kill in result["kills"]:
        print(f"killed after {kill['seconds']:5.2f} s, checkpoint at step {kill['step']:3d} of 150")
    print(f"metrics.jsonl equal: {result['metrics_equal']}; weights equal: {result['weights_equal']}")
    print(json.dumps(result))
    sys.exit(0 if result["metrics_equal"] and result["weights_equal"] else 1)


def measure(folder: Path, kills: int, workers: int, chance: random.Random) -> dict:
    """Return where the kills fell and whether the two runs are equal."""
    kdc(folder, "train", *SETTINGS, "--out", "teacher")
    common = ["--teacher", "teacher", "--method", "kt", "--set", "model.teacher_check=false"]
    kdc(folder, "distill", *common, *SETTINGS, "--out", "whole")
    done = []
    command = ["distill", *common, *SETTINGS, "--workers", str(workers), "--out", "broken"]
    for _ in range(kills):
        process = start(folder, *command)
        pointer = folder / "broken" / "checkpoints" / "last.json"
        before = step_of(pointer)
        while step_of(pointer) <= before and process.poll() is None:
            time.sleep(0.01)
        seconds = chance.uniform(0.0, 1.0)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done.append({"seconds": round(seconds, 3), "step": step_of(pointer)})
        command = ["distill", "--resume", "broken", "--workers", str(workers)]
    if json.loads((folder / "broken" / "run.json").read_text())["status"] != "finished":
        kdc(folder, *command)
    whole, broken = (torch.load(state(folder / name), weights_only=True)["student"] for name in ("whole", "broken"))
    return {
        "workers": workers,
        "kills": done,
        "metrics_equal": (folder / "whole/metrics.jsonl").read_bytes()
        == (folder / "broken/metrics.jsonl").read_bytes(),
        "weights_equal": all(torch.equal(whole[key], broken[key]) for key in whole),
    }


def start(folder: Path, *words: str) -> subprocess.Popen:
    """Start a kdc command."""
    return subprocess.Popen([sys.executable, "-m", "kdc", *words], cwd=folder, stdout=subprocess.DEVNULL)


def kdc(folder: Path, *words: str) -> None:
    """Run a kdc command to its end."""
    if start(folder, *words).wait():
        sys.exit(f"failed: kdc {' '.join(words)}")


def step_of(pointer: Path) -> int:
    """Return the step of the checkpoint that a run would resume from, -1 without one."""
    return json.loads(pointer.read_text())["step"] if pointer.exists() else -1


def state(run: Path) -> Path:
    """Return the file of a run's resumable state."""
    return run / "checkpoints" / json.loads((run / "checkpoints" / "last.json").read_text())["file"]


if __name__ == "__main__":
    main()
