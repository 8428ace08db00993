"""The process in which a fresh engine first runs; see ``kdc.deploy.child``.

Its layers are profiled, and it segments the golden image beside it. If it crashes, it crashes alone.
"""

from dataclasses import dataclass
from pathlib import Path

from ...distill import console
from ...distill.run.records import Record
from ..artefacts.beside import golden_path
from ..child import serve
from ..runtimes.trt.inspector import PrecisionShares
from ..runtimes.trt.trt_runtime import TrtRuntime
from .golden import GoldenResult, compare_with_golden, read_golden


@dataclass(frozen=True)
class FirstRunRequest(Record):
    """The path of an engine."""

    engine: str


@dataclass(frozen=True)
class FirstRun(Record):
    """The precision of an engine, and how it does on its golden image, if there is one."""

    proof: PrecisionShares
    golden: GoldenResult | None


def first_run(path: Path) -> FirstRun:
    """Run an engine for the first time."""
    with TrtRuntime(path, trust=True) as runtime:  # its maker started this process, and may have a key of its own
        proof = runtime.check_precision()[0]
        golden = compare_with_golden(runtime, read_golden(path)) if golden_path(path).is_file() else None
    return FirstRun(proof, golden)


if __name__ == "__main__":
    console.json_mode = True  # what is said goes to stderr
    serve(lambda request: first_run(Path(request["engine"])).to_dict())
