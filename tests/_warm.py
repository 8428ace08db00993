"""Commands run by children forked off a process that has imported torch and kdc once: their start costs no imports.

What a child does is what ``python -m kdc`` does, in a process of its own that can be killed and signalled. A true
command line is used where the start itself is what a test is about.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

#: imported by the process that is forked
PRELOAD = ["kdc.cli", "kdc.distill.job", "kdc.distill.train", "kdc.distill.methods.kt"]


class Command:
    """``kdc`` with some arguments, running; what it prints is in files beside its folder."""

    def __init__(self, arguments: Sequence[str], cwd: Path) -> None:
        """Start it in ``cwd``."""
        self._printed = [cwd / ".stdout", cwd / ".stderr"]
        given = {"arguments": list(arguments), "cwd": cwd, "printed": self._printed, "environment": dict(os.environ)}
        # found by its path: what pytest has imported has no name that another process knows
        self._process = _context().Process(target=runpy.run_path, args=(__file__, given, "child"))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """See ``returncode``."""
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Wait for its end and return what it printed to stdout and stderr."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(self._printed[1].read_text())
        out, err = (path.read_text() for path in self._printed)
        return out, err


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _run(arguments: list[str], cwd: Path, printed: list[Path], environment: dict[str, str]) -> None:
    os.chdir(cwd)
    for number, path in zip((1, 2), printed, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(environment)
    # what starts the other processes of a run repeats the command by the name of its module
    from kdc import __main__ as module

    sys.modules["__main__"] = module
    sys.argv = [str(module.__file__), *arguments]
    try:
        module.main()
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing's leaves them out


if __name__ == "child":
    _run(*(globals()[name] for name in ("arguments", "cwd", "printed", "environment")))
