"""A backend of a measurement: one process that holds one opened network and obeys the bench."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...distill import console, errors
from ...distill.errors import ExportError, KdcError
from ...distill.run.files import sha256
from ...distill.run.folder import Run
from ..artefacts.beside import artefact_bytes
from ..runtimes.options import RuntimeOptions
from .plan import Plan, may_be_refused, nothing_left, row_names
from .worker import Worker


class Backend:
    """A worker process and what it has answered so far."""

    def __init__(
        self, source: Path | Run, label: str, options: RuntimeOptions, threads: int, in_process: bool = False
    ) -> None:
        """Start the process; it is idle until it gets an order. ``options`` are those that apply to ``source``."""
        self.source, self.label, self.options = source, label, options
        self.facts: dict[str, Any] = {}
        self.warmup: dict[str, Any] = {}
        self._worker = Worker() if in_process else None
        self._process: subprocess.Popen[str] | None = None
        if in_process:
            return
        count = str(threads)
        env = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
        env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in sys.path if path))
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML counts the devices
        module = f"{__package__}.worker"
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=env,
        )

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer; a user's mistake is raised here as it was there.

        Raises:
            ExportError: the process died.
        """
        if self._worker is not None:
            answer = self._worker.answer({"do": do, **order})
        else:
            answer = self._send({"do": do, **order})
        if "error" in answer:
            raise getattr(errors, answer["kind"], KdcError)(answer["error"])
        return answer

    def _send(self, order: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):  # a dead process shows as an empty answer
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if line:
            return json.loads(line)
        code = process.wait()
        self._stderr.seek(0)
        told = self._stderr.read().strip().splitlines()
        why = told[-1] if told else "it said nothing"
        raise ExportError(f"the process that measures {self.label} died (exit {code}): {why}")

    def identity(self) -> dict[str, Any]:
        """Name the row, what really runs, and the file with its hash and size."""
        file = Path(self.facts["file"])
        return {
            "name": self.label,
            **self.facts,
            "sha256": sha256(file),
            "size_mb": round(artefact_bytes(file) / 1e6, 2),
        }

    def close(self) -> None:
        """End the process, or let the networks go that were opened in this one."""
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
    """Start a process for every source of a plan, one for each form of torch, and end them all."""
    backends: list[Backend] = []
    try:
        for source, label in zip(plan.chosen, row_names(plan.chosen), strict=True):
            each = plan.options.per_mode(source)
            for options in each:
                name = label if len(each) == 1 else f"{label} ({options.torch_mode})"
                if options.torch_mode.startswith("compiled"):  # on a GPU while it is opened, else with its first query
                    console.say(f"{name}: torch compiles it, which may take minutes")
                backends.append(Backend(source, name, options, threads, in_process))
        yield backends
    finally:
        for backend in backends:
            backend.close()


def opened(backends: list[Backend], plan: Plan, **order: Any) -> list[Backend]:
    """Let every backend open its network; those that cannot be had here join ``plan.missing``.

    Raises:
        KdcError: what a named file or checkpoint says against being opened; or nothing is left.
    """
    there = [backend for backend in backends if open_one(backend, plan, **order)]
    if not there:
        raise ExportError(nothing_left(plan.missing))
    return there


def open_one(backend: Backend, plan: Plan, **order: Any) -> bool:
    """Let a backend open its network as planned; False, and a line in ``plan.missing``, where it is not to be had.

    Raises:
        KdcError: what a named file or checkpoint says against being opened.
    """
    source = backend.source
    try:
        backend.facts = backend.ask(
            "open",
            source=str(source.path if isinstance(source, Run) else source),
            size=plan.size,
            batch=plan.batch,
            head=plan.head,
            **asdict(backend.options),
            **order,
        )
    except KdcError as error:
        if not may_be_refused(source, plan, error):
            raise
        lack = {"file": backend.label, "why": f"not measured: {error}"}
        if lack not in plan.missing:  # the trade-off has tried to judge it before
            plan.missing.append(lack)
        return False
    return True
