"""The process that holds one backend of a measurement and carries out the bench's orders."""

import itertools
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...distill import console
from ...distill.run.records import Record
from ..child import serve
from .protocol import Flow, Input, MemoryUse, Opened, Opening, Turn, Warmup

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

    def open(self, order: Opening) -> Opened:
        """Open a network, once for every stream, and prepare its inputs; the answer says what really runs."""
        import numpy as np

        from ..runtimes.open import open_runtime

        self.close()
        task, (height, width) = order.task, order.size
        for _ in range(task.streams):
            self._runtimes.append(
                open_runtime(
                    order.source, size=order.size, threads=task.threads, head=order.head, **vars(order.options)
                )
            )
        runtime, self._batch = self._runtimes[0], order.batch

        count = 1 if task.mode == "memory" else INPUTS
        images = np.random.default_rng(task.seed).integers(0, 256, (count, order.batch, height, width, 3), np.uint8)
        if task.mode == "e2e":
            from .end_to_end import encoded, whole

            self._queries = [
                itertools.cycle([whole(each, files) for files in encoded(images, task.codec)])
                for each in self._runtimes
            ]
        elif task.mode == "net":
            inputs = [runtime.prepare(image) for image in images]
            self._queries = [itertools.cycle([each.staged(x) for x in inputs]) for each in self._runtimes]
            on_gpu = order.options.device == "cuda" and task.streams == 1
            steps = [step for x in inputs if (step := runtime.timed(x)) is not None] if on_gpu else []
            self._device_steps = itertools.cycle(steps) if steps else None
        else:
            self._queries = [itertools.cycle([_untimed(runtime, runtime.prepare(image)) for image in images])]
        return self._opened(order.name, task.threads)

    def _opened(self, name: str, threads: int) -> Opened:
        runtime = self._runtimes[0]
        spec = runtime.spec
        opened = Opened(
            name=name,
            runtime=runtime.name,
            version=_version(runtime.name),
            provider=runtime.provider,
            nodes_on_cpu=runtime.on_cpu,
            precision=runtime.precision,
            tf32=runtime.tf32,
            head=spec.head,
            input=Input([self._batch, *spec.shape[1:]], spec.dtype, spec.layout),
            file=str(runtime.source),
            threads=threads,
            pid=os.getpid(),
            contract=spec.contract,
        )
        return replace(opened, **runtime.facts)

    def warm(self, cap_s: float) -> Warmup:
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
        return Warmup(round(first, 3), len(times), round(time.perf_counter() - start, 3), stable, self._typical)

    def round(self, seconds: float, runs: int = 1, cap_s: float | None = None) -> Turn:
        """Run for ``seconds`` and ``runs`` times, at least once; no run begins that would not end within ``cap_s``.

        One run before them is not counted, since others have just had the caches; the cap counts it.
        """
        opened = time.perf_counter()
        _total(next(self._queries[0])())

        times: list[float] = []
        parts: list[dict[str, float]] = []
        start = time.perf_counter()
        while True:
            now = time.perf_counter()
            enough = now - start + self._typical / 2e3 >= seconds and len(times) >= runs
            late = cap_s is not None and now - opened + self._typical / 1e3 > cap_s
            if times and (enough or late):
                break
            taken = next(self._queries[0])()
            times.append(_total(taken))
            if isinstance(taken, dict):
                parts.append(taken)
        spent = time.perf_counter() - start

        queries = 1 + len(times)
        if self._device_steps is not None:
            parts = [next(self._device_steps)() for _ in range(max(IN_PARTS, len(times) // 4))]
            queries += len(parts)
        names = parts[0] if parts else ()
        return Turn(times, spent, {name: [one[name] for one in parts] for name in names}, queries)

    def flow(self, seconds: float) -> Flow:
        """Keep every stream busy for ``seconds``, for one query at least; one query of each before is not counted."""
        done = [0] * len(self._queries)
        failures: list[BaseException] = []
        begin = threading.Barrier(len(self._queries) + 1)

        def work(i: int, queries: Iterator[Step]) -> None:
            try:
                _total(next(queries)())
                begin.wait()
                while not done[i] or time.perf_counter() < until[0]:
                    _total(next(queries)())
                    done[i] += 1
            except Exception as error:  # noqa: BLE001 - raised again below, by the thread that answers
                failures.append(error)
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
        if failures:
            raise failures[0]

        spent = time.perf_counter() - start
        return Flow(self._batch * sum(done), spent, len(done) + sum(done))

    def memory(self, runs: int) -> MemoryUse:
        """Run ``runs`` times; ``held`` is the memory before them."""
        held = _resident()
        for _ in range(runs):
            next(self._queries[0])()
        return MemoryUse(held, _peak_resident(), _cuda_peak())

    def idle(self) -> MemoryUse:
        """Import what every backend needs and say how much memory the process holds before it opens anything."""
        import numpy as np

        from ..runtimes import base

        assert np and base
        return self.memory(runs=0)

    def close(self) -> None:
        """Close what is open."""
        self._queries, self._device_steps = [], None
        while self._runtimes:
            self._runtimes.pop().close()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out the order that ``request["order"]`` names with its ``request["values"]``.

        Raises:
            KdcError: as the order does.
        """
        order, values = request["order"], request["values"]
        if order == "open":
            return self.open(Opening.from_dict(values)).to_dict()
        if order == "close":
            self.close()
            return {}
        return ORDERS[order](self, **values).to_dict()


#: the orders whose values are numbers
ORDERS: dict[str, Callable[..., Record]] = {
    "idle": Worker.idle,
    "warm": Worker.warm,
    "round": Worker.round,
    "flow": Worker.flow,
    "memory": Worker.memory,
}


def _total(taken: float | dict[str, float]) -> float:
    return taken["total"] if isinstance(taken, dict) else taken


def _untimed(runtime: "Runtime", x: "np.ndarray") -> Step:
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


if __name__ == "__main__":
    console.json_mode = True  # what is said goes to stderr
    serve(Worker().answer)
