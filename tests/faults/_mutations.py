"""Files of every kind that kdc reads, damaged by a seed: bytes flipped, cut, moved; values of another type.

``python tests/faults/_mutations.py`` prints how the readers do, one line a reader.
"""

import contextlib
import copy
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdc import cli

#: what a value is replaced by
ODD: tuple[Any, ...] = (None, True, -1, 0, 7, 1e308, float("nan"), float("inf"), "", "x", "[/x]", "9" * 5000)
ODD += ([], {}, [[1]], {"a": 1}, 2**70, [None], ["a", 1], {"name": 3}, -(2**63), "\0", "../../x")
#: seconds in which a reader must end
PATIENCE = 30


@dataclass
class Reader:
    """A file, and what reads it; ``nested`` says that it is JSON, of which values are replaced, too."""

    file: Path
    read: Callable[[], Any]
    nested: bool = False
    #: in a process of its own, for native code that may hang or crash
    apart: bool = False


@dataclass
class Tally:
    """How many damaged files ended how."""

    codes: Counter[int] = field(default_factory=Counter)
    #: what was no exit code from 2 to 8 with one line
    wrong: list[str] = field(default_factory=list)


class HangError(BaseException):
    """A reader did not end."""


def mutations(content: bytes, nested: bool, count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged forms of a file."""
    rng = random.Random(seed)
    for at in range(count):
        if nested and at % 2:
            yield _another_value(content, rng)
        else:
            yield _other_bytes(bytearray(content), rng)


def _other_bytes(content: bytearray, rng: random.Random) -> bytes:
    size = max(len(content), 1)
    # headers are where the sense is
    start = rng.randrange(min(size, 400)) if rng.random() < 0.6 else rng.randrange(size)
    stop = min(size, start + rng.choice((1, 1, 2, 8, 64)))
    match rng.randrange(7):
        case 0 if content:
            content[start] ^= 1 << rng.randrange(8)
        case 1:
            content[start:stop] = rng.randbytes(stop - start)
        case 2:
            del content[start:stop]
        case 3:
            content[start:start] = rng.randbytes(rng.choice((1, 4, 32)))
        case 4:
            del content[start:]
        case 5:
            content[start:stop] = bytes(stop - start)
        case _:
            content[start:stop] = b"\xff" * (stop - start)
    return bytes(content)


def _another_value(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines()
    try:
        whole = [json.loads(content)]
    except ValueError:  # an object a line
        whole = [json.loads(line) for line in lines]
    whole = copy.deepcopy(whole)
    holder: Any = whole
    key: Any = rng.randrange(len(whole))
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.8:
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))

    if rng.random() < 0.15 and isinstance(holder, dict):
        del holder[key]
    elif rng.random() < 0.05:
        deep = json.dumps(whole[0]).encode()
        return deep[:-1] + b', "deep": ' + b"[" * 1500 + b"]" * 1500 + b"}"
    else:
        holder[key] = rng.choice(ODD)
    return "\n".join(json.dumps(each) for each in whole).encode()


def verdict(read: Callable[[], Any]) -> tuple[int, str]:
    """Return the exit code that a command would end with, and its line."""

    def ring(*_: object) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        read()
    except HangError:
        return -1, f"no end within {PATIENCE} s"
    except Exception as error:  # noqa: BLE001 - as the command line does
        message, code = cli._verdict(error)
        return code, message
    finally:
        signal.alarm(0)
    return 0, ""


def attack(reader: Reader, count: int, seed: int) -> Tally:
    """Damage a file ``count`` times and read it each time; afterwards it is as before."""
    content, tally = reader.file.read_bytes(), Tally()
    whole = _apart(reader.read) if reader.apart else verdict(reader.read)
    assert whole == (0, ""), whole
    for at, damaged in enumerate(mutations(content, reader.nested, count, seed)):
        reader.file.write_bytes(damaged)
        code, line = _apart(reader.read) if reader.apart else verdict(reader.read)
        tally.codes[code] += 1
        if not (code == 0 or 2 <= code <= 8) or "\n" in line:
            tally.wrong.append(f"mutation {at}: exit {code}: {line}")
    reader.file.write_bytes(content)
    return tally


def _apart(read: Callable[[], Any]) -> tuple[int, str]:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def work() -> None:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            there.send(verdict(read))
        os._exit(0)

    process = context.Process(target=work)
    process.start()
    there.close()
    answer = -1, f"no answer within {2 * PATIENCE} s"
    with contextlib.suppress(EOFError):
        if here.poll(2 * PATIENCE):
            answer = -1, "its process died"
            answer = here.recv()
    process.kill()
    process.join()
    return answer


if __name__ == "__main__":
    from kdc.distill import console

    sys.path.insert(0, str(Path(__file__).parent))
    import _readers  # pyright: ignore[reportMissingImports]

    console.muted = True
    for name in sys.argv[1:] or list(_readers.READERS):
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            started = time.time()
            done = attack(_readers.READERS[name](Path(place)), 200, 14)
            print(name, dict(sorted(done.codes.items())), f"{len(done.wrong)} wrong", f"{time.time() - started:.0f} s")
            for line in done.wrong[:12]:
                print("   ", line[:230])
