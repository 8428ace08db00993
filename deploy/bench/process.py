"""A backend of a measurement: one process that holds one opened network and carries out the bench's orders."""

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...distill import console
from ...distill.errors import ExportError, KdcError, ResourceError
from ...distill.run.files import sha256
from ..artefacts.beside import artefact_bytes
from ..child import ChildDiedError, checked, start
from ..runtimes.options import RuntimeOptions
from .plan import Candidate, NotMeasured, Plan, nothing_left
from .protocol import Flow, Identity, MemoryUse, Opened, Opening, Task, Turn, Warmup
from .worker import Worker


class Backend:
    """A worker process, or a worker within this process; an order raises the error that it met there.

    Attributes:
        candidate: what it opens.
        label: the name of its rows.
        options: those that apply to the candidate, with one torch mode.
        opened: what really runs, once it is open.
        opened_s: how long that took, in seconds, imports and compiling included.
    """

    opened: Opened
    opened_s: float

    def __init__(
        self, candidate: Candidate, label: str, options: RuntimeOptions, threads: int, in_process: bool = False
    ) -> None:
        """Start the process; it is idle until it gets an order."""
        self.candidate, self.label, self.options = candidate, label, options
        self._worker = Worker() if in_process else None
        self._process: subprocess.Popen[str] | None = None
        if not in_process:
            self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
            names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            environment = {name: str(threads) for name in names}
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML counts the devices
            self._process = start("deploy.bench.worker", self._stderr, **environment)

    def open(self, plan: Plan, task: Task) -> None:
        """Open the network as planned."""
        source = str(self.candidate.path)
        order = Opening(self.label, source, plan.size, plan.batch, plan.head, self.options, task)
        started = time.perf_counter()
        self.opened = Opened.from_dict(self._ask("open", **order.to_dict()))
        self.opened_s = round(time.perf_counter() - started, 3)

    def idle(self) -> MemoryUse:
        """See ``Worker.idle``."""
        return MemoryUse(**self._ask("idle"))

    def warm(self, cap_s: float) -> Warmup:
        """See ``Worker.warm``."""
        return Warmup(**self._ask("warm", cap_s=cap_s))

    def round(self, seconds: float, runs: int = 1, cap_s: float | None = None) -> Turn:
        """See ``Worker.round``."""
        return Turn(**self._ask("round", seconds=seconds, runs=runs, cap_s=cap_s))

    def flow(self, seconds: float) -> Flow:
        """See ``Worker.flow``."""
        return Flow(**self._ask("flow", seconds=seconds))

    def memory(self, runs: int) -> MemoryUse:
        """See ``Worker.memory``."""
        return MemoryUse(**self._ask("memory", runs=runs))

    def close(self) -> None:
        """Close the network; the process stays."""
        self._ask("close")

    def identity(self) -> Identity:
        """Return what a row says of what was opened."""
        file = Path(self.opened.file)
        return Identity(**vars(self.opened), sha256=sha256(file), size_mb=round(artefact_bytes(file) / 1e6, 2))

    def _ask(self, order: str, **values: Any) -> dict[str, Any]:
        request = {"order": order, "values": values}
        process = self._process
        if self._worker is not None:
            return self._worker.answer(request)
        assert process is not None and process.stdin is not None and process.stdout is not None

        with contextlib.suppress(OSError):  # a dead process shows as an empty answer
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        if line := process.stdout.readline():
            return checked(json.loads(line))

        code = process.wait()
        self._stderr.seek(0)
        died = ChildDiedError(code, self._stderr.read())
        kind = ResourceError if died.exit_code == ResourceError.exit_code else ExportError
        raise kind(f"the process that measures {self.label} died ({died.end}): {died.last_words}{died.cure}")

    def end(self) -> None:
        """End the process, or close the network that was opened in this one."""
        if self._worker is not None:
            self._worker.close()
        if self._process is None:
            return
        assert self._process.stdin is not None and self._process.stdout is not None

        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()


@contextlib.contextmanager
def started(plan: Plan, threads: int, in_process: bool = False) -> Iterator[list[Backend]]:
    """Start a process for every candidate of a plan, one for each torch mode, and end them all."""
    backends: list[Backend] = []
    try:
        for candidate in plan.candidates:
            modes = plan.options.per_mode(candidate.source)
            for options in modes:
                label = candidate.label if len(modes) == 1 else f"{candidate.label} ({options.torch_mode})"
                if options.torch_mode.startswith("compiled"):  # on a GPU while it is opened, else with its first query
                    console.say(f"{label}: torch compiles it, which may take minutes")
                backends.append(Backend(candidate, label, options, threads, in_process))
        yield backends
    finally:
        for backend in backends:
            backend.end()


def open_all(backends: list[Backend], plan: Plan, task: Task) -> list[Backend]:
    """Let every backend open its network; those that are not available join ``plan.missing``.

    Raises:
        KdcError: as ``open_one``, or nothing is left.
    """
    waiting = console.progress(backends, len(backends), "opening")
    available = [backend for backend in waiting if open_one(backend, plan, task)]
    if not available:
        raise ExportError(nothing_left(plan.missing))
    return available


def open_one(backend: Backend, plan: Plan, task: Task) -> bool:
    """Let a backend open its network as planned; False, and a line in ``plan.missing``, where it is not available.

    Raises:
        KdcError: a named file or a checkpoint cannot be opened.
    """
    try:
        backend.open(plan, task)
    except KdcError as error:
        if not backend.candidate.may_be_refused(error):
            raise
        lack = NotMeasured(backend.label, f"not measured: {error}")
        if lack not in plan.missing:  # the trade-off has tried to evaluate it before
            plan.missing.append(lack)
        return False
    return True
