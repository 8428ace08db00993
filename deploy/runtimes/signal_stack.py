"""Keeps the stack that signal handlers run on, which OpenVINO's CPU plugin replaces and then takes away.

The plugin gives the thread that loads it an alternate signal stack of its own and unmaps it when it goes, but puts the
former one back only where it goes in that very thread and in the reverse order of its coming (2026.4.1). Python's
handlers run on that stack: the next signal, such as the end of a child process, then ends the process (SIGSEGV).
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator

#: more than ``stack_t`` takes on any system
_BYTES = 64


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give this thread the signal stack back that it had before."""
    if os.name != "posix":
        yield
        return
    libc, before = ctypes.CDLL(None), ctypes.create_string_buffer(_BYTES)
    known = libc.sigaltstack(None, before) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaltstack(before, None)
