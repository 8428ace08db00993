"""The messages of TensorRT while it builds or runs; imports nothing, so that the builder's process stays small."""

import sys
from typing import Any

from ....distill.text_table import visible

#: how many different warnings, and how much of each, are kept
_KEPT, _LENGTH = 20, 300


def make_logger(trt: Any) -> Any:
    """Return a logger of this TensorRT: ``last`` error, ``warnings`` counted, the first of them in ``messages``."""

    class Logger(trt.ILogger):
        """Sends warnings to stderr, counts them, keeps the first and remembers the last error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "it gave no reason"
            self.warnings = 0
            self.messages: dict[str, None] = {}

        def log(self, severity: Any, msg: str) -> None:
            """Take one message."""
            if severity not in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR, trt.ILogger.WARNING):
                return
            sys.stderr.writelines(f"{visible(line)}\n" for line in msg.splitlines())
            line = " ".join(msg.split())
            if severity != trt.ILogger.WARNING and "Thread context has not been set" not in msg:
                self.last = line
            self.warnings += 1
            if len(self.messages) < _KEPT:
                self.messages[line[:_LENGTH]] = None

    return Logger()
