"""The errors that kdc shows to people: one line each, with the exit code of the command line."""

import contextlib
import difflib
import errno
import importlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any


class KdcError(Exception):
    """An error that the user can mend; the message says what came, what is accepted and the cure.

    Attributes:
        record: the result that a command ends with all the same, such as a table with failed runs in it.
    """

    exit_code: int = 1

    def __init__(self, message: object = "", record: Any = None) -> None:
        super().__init__(message)
        self.record = record


class UsageError(KdcError):
    """A flag, name or configuration value that kdc does not accept."""

    exit_code = 2


class DataError(KdcError):
    """Images or labels that are missing, broken or other than configured."""

    exit_code = 3


class WeightsError(KdcError):
    """A checkpoint, weights or model file that is missing, broken or does not fit."""

    exit_code = 4


class ExportError(KdcError):
    """An export, engine or runtime that failed, or an optional package that is not installed."""

    exit_code = 5


class NumbersError(KdcError):
    """Numbers went bad: a non-finite loss, or a gate beyond its tolerance."""

    exit_code = 6


class ResourceError(KdcError):
    """Memory, disk or worker processes ran out."""

    exit_code = 7


class BusyError(KdcError):
    """Another process works in the run folder."""

    exit_code = 8


#: how libraries say that memory ran out
_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "failed to allocate", "insufficient memory")
_MEMORY += ("unable to mmap", "can't start new thread", "pthread_create failed")


def lacks_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; torch's error is told by its name, so that nothing imports torch only to fail."""
    kinds = {each.__name__ for each in type(error).__mro__}
    text = str(error).lower()
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or any(words in text for words in _MEMORY)


def closest(name: str, accepted: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest accepted name, or an empty string."""
    near = difflib.get_close_matches(name, list(accepted), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def need(module: str, extra: str) -> ModuleType:
    """Import ``module``.

    Raises:
        ExportError: it is not installed; the message holds the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExportError(
            f"{module} is not installed ({error}); install it with: pip install 'kdc[{extra}]'"
        ) from error


@contextlib.contextmanager
def reading(what: object, kind: type[KdcError], cure: str) -> Iterator[None]:
    """Read a file that may be anybody's: whatever its parser raises becomes one line.

    KdcErrors stay as they are, as does a lack of memory. Within stands the parsing alone: what else went wrong there
    would be called a fault of the file, too.

    Args:
        what: the file.
        kind: of the error.
        cure: the end of its line.
    """
    try:
        yield
    except (KdcError, MemoryError):
        raise
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise
        raise kind(f"{what} cannot be read: {error.strerror or one_line(error)}") from error
    except Exception as error:  # parsers of other people's formats raise whatever comes
        if lacks_memory(error):
            raise
        reason = one_line(error)[:160]
        if " " not in reason:  # a bare key or number
            reason = f"{type(error).__name__} {reason}"
        raise kind(f"{what} cannot be read ({reason}); {cure}") from error


def one_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its name."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
