"""The process that holds one backend of a measurement and answers the bench's orders, one JSON line each."""

import itertools
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...distill import console
from ...distill.errors import KdcError

if TYPE_CHECKING:
    import numpy as np

    from ..runtimes.base import Runtime

#: Distinct inputs that are rotated, so that nothing is timed on an input it has just seen.
INPUTS = 8
#: Runs of a turn that are timed in parts by the device's own clock, beside those that are timed whole.
IN_PARTS = 5

#: One query: its milliseconds, or those of its parts with their "total".
Step = Callable[[], float | dict[str, float]]


class Worker:
    """One opened network, or several instances of it that work at the same time."""

    def __init__(self) -> None:
        self._runtimes: list[Runtime] = []
        self._queries: list[Iterator[Step]] = []
        self._device_steps: Iterator[Callable[[], dict[str, float]]] | None = None
        self._batch, self._typical = 1, 0.0

    def open(
        self,
        source: str,
        size: list[int],
        batch: int,
        threads: int,
        head: str,
        mode: str,
        seed: int,
        streams: int = 1,
        codec: str = "jpg",
        **options: Any,
    ) -> dict[str, Any]:
        """Open ``source``, once for every stream, and prepare its inputs; the answer says what really runs.

        ``mode`` is "net" (the network alone), "e2e" (file in memory to mask) or "memory" (nothing is run yet);
        ``options`` are the fields of ``RuntimeOptions``.
        """
        import numpy as np

        from ..runtimes.open import open_runtime

        self.close()
        height, width = size
        for _ in range(streams):
            self._runtimes.append(open_runtime(source, size=(height, width), threads=threads, head=head, **options))
        self._batch = batch
        runtime = self._runtimes[0]
        count = 1 if mode == "memory" else INPUTS
        images = np.random.default_rng(seed).integers(0, 256, (count, batch, height, width, 3), np.uint8)
        if mode == "e2e":
            from .end_to_end import encoded, whole

            self._queries = [
                itertools.cycle([whole(each, files) for files in encoded(images, codec)]) for each in self._runtimes
            ]
        elif mode == "net":
            inputs = [runtime.prepare(image) for image in images]
            self._queries = [itertools.cycle([each.staged(x) for x in inputs]) for each in self._runtimes]
            by_events = [runtime.timed(x) for x in inputs] if options.get("device") == "cuda" and streams == 1 else []
            there = [step for step in by_events if step is not None]
            self._device_steps = itertools.cycle(there) if there else None
        else:
            self._queries = [itertools.cycle([_bare(runtime, runtime.prepare(image)) for image in images])]
        return self._facts(threads)

    def _facts(self, threads: int) -> dict[str, Any]:
        runtime = self._runtimes[0]
        spec = runtime.spec
        return {
            "runtime": runtime.name,
            "version": _version(runtime.name),
            "provider": runtime.provider,
            "nodes_on_cpu": getattr(runtime, "on_cpu", 0),
            "precision": runtime.precision,
            "tf32": runtime.tf32,
            "head": spec.head,
            "input": {"shape": [self._batch, *spec.shape[1:]], "dtype": spec.dtype, "layout": spec.layout},
            "file": str(runtime.source),
            "threads": threads,
            "pid": os.getpid(),
            **getattr(runtime, "facts", {}),
        }

    def warm(self, cap_s: float) -> dict[str, Any]:
        """Run until 500 ms and 10 runs are over and two medians of five agree to 5 %, or ``cap_s`` is over.

        The very first run, of every instance, is counted apart: it compiles or tunes, which may take longer than all
        the others. On a GPU most of that is done when the network is opened.
        """
        first = max(_total(next(steps)()) for steps in self._queries)
        times: list[float] = []
        start = time.perf_counter()
        stable = False
        while not stable and (time.perf_counter() - start < cap_s or len(times) < 2):
            times.append(_total(next(self._queries[0])()))
            spent = time.perf_counter() - start
            if spent >= 0.5 and len(times) >= 10:
                now, before = statistics.median(times[-5:]), statistics.median(times[-10:-5])
                stable = abs(now - before) <= 0.05 * before
        self._typical = statistics.median(times[-5:])
        return {
            "first_ms": round(first, 3),
            "runs": len(times),
            "seconds": round(time.perf_counter() - start, 3),
            "stable": stable,
            "ms": self._typical,
        }

    def round(self, seconds: float, runs: int = 1, cap_s: float | None = None) -> dict[str, Any]:
        """Run for ``seconds`` and ``runs`` times, at least once, but no longer than ``cap_s``.

        One run before them is not counted, since others have just had the caches. ``parts`` holds the milliseconds of
        the parts of a query, where they are known; ``queries`` counts every query of the turn.
        """
        _total(next(self._queries[0])())
        times: list[float] = []
        parts: list[dict[str, float]] = []
        start = time.perf_counter()
        while True:
            spent = time.perf_counter() - start + self._typical / 2e3
            if times and ((spent >= seconds and len(times) >= runs) or (cap_s is not None and spent >= cap_s)):
                break
            taken = next(self._queries[0])()
            times.append(_total(taken))
            if isinstance(taken, dict):
                parts.append(taken)
        queries = 1 + len(times)
        if self._device_steps is not None:
            parts = [next(self._device_steps)() for _ in range(max(IN_PARTS, len(times) // 4))]
            queries += len(parts)
        names = parts[0] if parts else ()
        return {
            "ms": times,
            "parts": {name: [one[name] for one in parts] for name in names},
            "queries": queries,
        }

    def flow(self, seconds: float) -> dict[str, Any]:
        """Keep every stream busy for ``seconds``, for one query at least; how many images were done, in what time.

        One query of each stream before them is not counted in ``images``; ``queries`` counts all of the turn.
        """
        done = [0] * len(self._queries)
        failed: list[BaseException] = []
        begin = threading.Barrier(len(self._queries) + 1)

        def work(i: int, queries: Iterator[Step]) -> None:
            try:
                _total(next(queries)())
                begin.wait()
                while not done[i] or time.perf_counter() < until[0]:
                    _total(next(queries)())
                    done[i] += 1
            except Exception as error:  # noqa: BLE001 - raised again below, by the thread that answers
                failed.append(error)
                begin.abort()

        until = [0.0]
        threads = [threading.Thread(target=work, args=pair) for pair in enumerate(self._queries)]
        for thread in threads:
            thread.start()
        try:
            # set before the barrier opens, so that no stream can read it too early
            until[0] = time.perf_counter() + 3600
            begin.wait()
            start = time.perf_counter()
            until[0] = start + seconds
        except threading.BrokenBarrierError:
            start = 0.0
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        spent = time.perf_counter() - start
        return {"images": self._batch * sum(done), "seconds": spent, "queries": len(done) + sum(done)}

    def memory(self, runs: int) -> dict[str, Any]:
        """Run ``runs`` times and say how much memory this process holds, and held at most, in MiB."""
        held = _resident()
        for _ in range(runs):
            next(self._queries[0])()
        return {"held": held, "peak": _peak_resident(), "cuda_peak": _cuda_peak()}

    def idle(self) -> dict[str, Any]:
        """Import what every backend needs and say how much memory the process holds before it opens anything."""
        import numpy as np

        from ..runtimes import base

        assert np and base
        return {"mib": _resident()}

    def close(self) -> dict[str, Any]:
        """Let go of what is open."""
        self._queries, self._device_steps = [], None
        while self._runtimes:
            self._runtimes.pop().close()
        return {}

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Obey one order; a user's mistake comes back as data."""
        try:
            return getattr(self, order.pop("do"))(**order)
        except KdcError as error:
            return {"error": str(error), "kind": type(error).__name__}


def _total(taken: float | dict[str, float]) -> float:
    return taken["total"] if isinstance(taken, dict) else taken


def _bare(runtime: "Runtime", x: "np.ndarray") -> Step:
    def step() -> float:
        runtime.infer(x)
        return 0.0

    return step


def _resident() -> float:
    import psutil

    return round(psutil.Process().memory_info().rss / 2**20, 1)


def _peak_resident() -> float:
    """Return the most memory this process has held, in MiB.

    Not from getrusage where it can be helped: its number survives exec, so that a child shows its parent's peak.
    """
    try:
        with open("/proc/self/status") as file:
            kib = next(line.split()[1] for line in file if line.startswith("VmHWM"))
        return round(int(kib) / 1024, 1)
    except (OSError, StopIteration):
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _cuda_peak() -> float | None:
    """Return the most memory torch's allocator held on the GPU, in MiB; None where torch did not use one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return round(torch.cuda.max_memory_reserved() / 2**20, 1)


def _version(runtime: str) -> str | None:
    module = {"aoti": "torch"}.get(runtime, runtime)
    return getattr(sys.modules.get(module), "__version__", None)


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
