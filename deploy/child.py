"""Child processes for native code that may crash, hang or fill the memory: JSON lines in, JSON lines out.

``call`` asks one question, ``start`` gives a process that answers many; both run a module of this package, whose
``main`` hands its work to ``serve``. A KdcError of the child is raised in the parent.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any

from ..distill.errors import ExportError, KdcError, ResourceError

#: this package, whatever it is imported as
_PACKAGE = __name__.removesuffix(".deploy.child")
#: by exit code, those that need no more than a message
_ERRORS = {kind.exit_code: kind for kind in KdcError.__subclasses__() if kind.__module__ == KdcError.__module__}


class ChildDiedError(ExportError):
    """A child process that ended without an answer.

    Attributes:
        code: what ``subprocess`` says: an exit code, or a signal with a minus.
        cure: empty, or what to do where it was killed, which is what the kernel does when memory runs out.
        exit_code: 7 then.
        end: "signal SIGSEGV" or "exit code 3".
        last_words: the last line that it wrote to stderr; "none" if there is none.
    """

    def __init__(self, code: int, stderr: str) -> None:
        self.code = code
        names = {each.value: each.name for each in signal.Signals}  # most real-time signals have none
        self.end = f"signal {names.get(-code, -code)}" if code < 0 else f"exit code {code}"
        lines = [" ".join(line.split()) for line in stderr.splitlines() if line.strip()]
        self.last_words = lines[-1] if lines else "none"
        self.cure = ""
        if code == -signal.SIGKILL:
            self.exit_code = ResourceError.exit_code
            self.cure = "; most likely memory ran out: give it more, or take a smaller --size"
        super().__init__(f"a child process died ({self.end}); its last message: {self.last_words}{self.cure}")


def start(module: str, stderr: IO[str] | int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
    """Start ``python -P -m kdc.<module>`` with pipes for its requests and answers, one JSON line each."""
    # the child must find this very package, however the parent came by it
    path = os.pathsep.join(dict.fromkeys(folder for folder in sys.path if folder))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", f"{_PACKAGE}.{module}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONPATH": path} | environment,
    )


def call(module: str, request: dict[str, Any], timeout: float | None = None, **environment: str) -> dict[str, Any]:
    """Start a child, send it one request and return its answer; Ctrl-C and ``timeout`` (seconds) kill it.

    Raises:
        ChildDiedError: it ended without an answer, or died after it.
        KdcError: of the class that the child raised, with its message.
        TimeoutError: it took too long.
    """
    child = start(module, subprocess.PIPE, **environment)
    try:
        output, stderr = child.communicate(json.dumps(request) + "\n", timeout)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(str(error)) from error
    finally:
        if child.poll() is None:  # native code does not listen to Ctrl-C
            child.kill()
            child.communicate()
    answer = None
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(output.splitlines()[-1])
    if child.returncode or answer is None:
        raise ChildDiedError(child.returncode, stderr)
    return checked(answer)


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer of ``serve``, or raise the KdcError that it tells of."""
    if "error" in answer:
        raise _ERRORS.get(answer["exit_code"], KdcError)(answer["error"])
    return answer


def serve(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer the requests on stdin until it ends; whatever else prints to stdout goes to stderr. Runs in the child."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = work(json.loads(line))
        except KdcError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
