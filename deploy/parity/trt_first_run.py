"""The process in which a fresh engine first runs; see ``kdc.deploy.child``.

Its layers are profiled, and it segments the golden image beside it. If it crashes, it crashes alone.
"""

from pathlib import Path
from typing import Any

from ...distill import console
from ..artefacts.beside import golden_path
from ..child import serve
from ..runtimes.trt.trt_runtime import TrtRuntime
from .golden import compare_with_golden, read_golden


def first_run(request: dict[str, Any]) -> dict[str, Any]:
    """Return the precision of the engine at ``request["engine"]``, and how it does on its golden image."""
    path = Path(request["engine"])
    with TrtRuntime(path) as runtime:
        precision = runtime.check_precision()[0]
        golden = compare_with_golden(runtime, read_golden(path)) if golden_path(path).is_file() else None
    return {"proof": precision.to_dict(), "golden": golden and golden.to_dict()}


if __name__ == "__main__":
    console.json_mode = True  # what is said goes to stderr
    serve(first_run)
