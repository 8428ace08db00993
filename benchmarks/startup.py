"""How long the command line takes to answer: ``python benchmarks/startup.py [RUNS]``; a table, then one JSON line."""

import json
import statistics
import subprocess
import sys
import time

LINES = {
    "python, nothing": [sys.executable, "-c", "pass"],
    "import typer": [sys.executable, "-c", "import typer"],
    "kdc --help": [sys.executable, "-m", "kdc", "--help"],
    "kdc distill --help": [sys.executable, "-m", "kdc", "distill", "--help"],
}


def seconds(line: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(line, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Time every line RUNS times (20), interleaved so that a slow moment hits all of them."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for line in LINES.values():
        seconds(line)  # byte code and page cache
    samples: dict[str, list[float]] = {name: [] for name in LINES}
    for _ in range(runs):
        for name, line in LINES.items():
            samples[name].append(seconds(line))
    print(f"{'':20} {'median':>8} {'min':>8} {'max':>8}  seconds, {runs} runs")
    for name, taken in samples.items():
        print(f"{name:20} {statistics.median(taken):8.3f} {min(taken):8.3f} {max(taken):8.3f}")
    print(
        json.dumps(
            {"unit": "s", "runs": runs, "median": {n: round(statistics.median(t), 4) for n, t in samples.items()}}
        )
    )


if __name__ == "__main__":
    main()
