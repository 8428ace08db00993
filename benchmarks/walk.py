"""Which files of the package a reader passes through who follows a command: a table, then one JSON line.

python benchmarks/walk.py [--files] export trt RUN ...

The command runs in this process under ``sys.setprofile``. What counts is the orchestration:

- A *step* is a call of a function of the package that itself calls into another file of the package. Leaves are no
  steps, nor helpers that stay in their own file, lambdas, comprehensions and the bodies of modules.
- A pair (file that calls, function that is called) is one step, at its first call: loops over images count once.
- A *stay* is a run of consecutive steps in one file.
- A *climb* is a stay in a file that was entered before the file of the stay before it: back to a file above in the list
  of files by first entry.

Nothing depends on the names of files. Threads and child processes are not followed. What a run already holds (an
engine, statistics) changes the way, so compare on equal copies. ``--files`` prints every stay.
"""

import json
import os
import sys
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import kdc
from kdc import cli

HOME = kdc.__path__[0] + os.sep
#: its file, relative to the package, and its name
Function = tuple[str, str]


@dataclass(frozen=True)
class Stay:
    """A run of consecutive steps in one file."""

    file: str
    functions: list[str]
    climb: bool


class Walk:
    """The calls of a command inside the package, each pair once, in order."""

    def __init__(self) -> None:
        #: (file that calls, called function), in order of the first call; "" calls the first
        self.calls: dict[tuple[str, Function], None] = {}
        #: functions that call into another file
        self.orchestrating: set[Function] = set()

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """Note one event of ``sys.setprofile``."""
        if event != "call" or not (called := function_of(frame.f_code)):
            return
        above, caller = frame.f_back, None
        while above and not (caller := function_of(above.f_code)):
            above = above.f_back
        self.calls.setdefault((caller[0] if caller else "", called))
        if caller and caller[0] != called[0]:
            self.orchestrating.add(caller)

    def stays(self) -> list[Stay]:
        """Return the stays in order."""
        stays: list[Stay] = []
        first: dict[str, int] = {}
        for _, (file, name) in self.calls:
            if (file, name) not in self.orchestrating:
                continue
            if not stays or stays[-1].file != file:
                climb = file in first and first[file] < first[stays[-1].file]
                first.setdefault(file, len(first))
                stays.append(Stay(file, [], climb))
            stays[-1].functions.append(name)
        return stays


def function_of(code: CodeType) -> Function | None:
    """Return file and name of a named function of the package, None for any other code."""
    if not code.co_filename.startswith(HOME) or code.co_name.startswith("<"):
        return None
    return code.co_filename.removeprefix(HOME), code.co_qualname


def main() -> None:
    """Run the command, print its walk, and exit with the command's code."""
    words = sys.argv[1:]
    listed = words[:1] == ["--files"]
    words = words[listed:]
    if not words:
        sys.exit("usage: python benchmarks/walk.py [--files] COMMAND ...")

    walk = Walk()
    sys.setprofile(walk.profile)
    code = cli.run(words)
    sys.setprofile(None)
    stays = walk.stays()

    if listed:
        for i, stay in enumerate(stays, 1):
            print(f"{i:4} {'climb' if stay.climb else '':6}{stay.file:32} {', '.join(stay.functions)}")
    files = list(dict.fromkeys(stay.file for stay in stays))
    print(f"{'stays':>6} {'climbs':>7}  files in the order of their first entry")
    for file in files:
        at = [stay for stay in stays if stay.file == file]
        print(f"{len(at):6} {sum(stay.climb for stay in at):7}  {file}")
    climbs = sum(stay.climb for stay in stays)
    print(f"{len(stays):6} {climbs:7}  {len(files)} files")
    print(json.dumps({"command": words, "exit": code, "stays": len(stays), "files": len(files), "climbs": climbs}))
    sys.exit(code)


if __name__ == "__main__":
    main()
