"""The process that holds one backend of a latency measurement and answers the bench's orders, one JSON line each."""

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..distill import console
from ..distill.errors import KdcError

#: Distinct inputs that are rotated, so that nothing is timed on an input it has just seen.
INPUTS = 8


class Worker:
    """One opened backend."""

    def __init__(self) -> None:
        self._steps: Iterator[Callable[[], float]] = iter(())
        self._typical = 0.0

    def open(
        self,
        source: str,
        device: str,
        size: list[int],
        batch: int,
        threads: int,
        head: str,
        mode: str,
        seed: int,
        provider: str | None = None,
    ) -> dict[str, Any]:
        """Open ``source`` and prepare its inputs; the answer says what really runs."""
        import numpy as np

        from .runtime import Runtime, open_runtime

        height, width = size
        runtime: Runtime = open_runtime(
            source, device=device, provider=provider, size=(height, width), threads=threads, head=head
        )
        images = np.random.default_rng(seed).integers(0, 256, (INPUTS, batch, height, width, 3), np.uint8)
        if mode == "net":
            steps = [runtime.staged(runtime.prepare(image)) for image in images]
        else:
            steps = [_whole(runtime.masks, image) for image in images]
        self._steps = itertools.cycle(steps)
        spec = runtime.spec
        return {
            "runtime": runtime.name,
            "version": _version(runtime.name),
            "provider": runtime.provider,
            "nodes_on_cpu": getattr(runtime, "on_cpu", 0),
            "precision": runtime.precision,
            "tf32": runtime.tf32,
            "head": spec.head,
            "input": {"shape": [batch, *spec.shape[1:]], "dtype": spec.dtype, "layout": spec.layout},
            "file": str(runtime.source),
            "threads": threads,
            "pid": os.getpid(),
        }

    def warm(self, cap_s: float) -> dict[str, Any]:
        """Run until 500 ms and 10 runs are over and two medians of five agree to 5 %, or ``cap_s`` is over."""
        times: list[float] = []
        start = time.perf_counter()
        stable = False
        while not stable and (time.perf_counter() - start < cap_s or len(times) < 2):
            times.append(next(self._steps)())
            spent = time.perf_counter() - start
            if spent >= 0.5 and len(times) >= 10:
                now, before = statistics.median(times[-5:]), statistics.median(times[-10:-5])
                stable = abs(now - before) <= 0.05 * before
        self._typical = statistics.median(times[-5:])
        return {
            "runs": len(times),
            "seconds": round(time.perf_counter() - start, 3),
            "stable": stable,
            "ms": self._typical,
        }

    def round(self, seconds: float) -> dict[str, Any]:
        """Run for ``seconds``, at least once, after one run that is not counted: others have just had the caches."""
        next(self._steps)()
        times: list[float] = []
        start = time.perf_counter()
        while not times or time.perf_counter() - start + self._typical / 2e3 < seconds:
            times.append(next(self._steps)())
        return {"ms": times}

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Obey one order; a user's mistake comes back as data."""
        try:
            return getattr(self, order.pop("do"))(**order)
        except KdcError as error:
            return {"error": str(error), "kind": type(error).__name__}


def _whole(masks: Callable[[Any], Any], image: Any) -> Callable[[], float]:
    def step() -> float:
        start = time.perf_counter_ns()
        masks(image)
        return (time.perf_counter_ns() - start) / 1e6

    return step


def _version(runtime: str) -> str:
    return sys.modules[runtime].__version__


def main() -> None:
    """Read orders from stdin, answer on what was stdout; anything else that prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    console.json_mode = True
    worker = Worker()
    for line in sys.stdin:
        answers.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
