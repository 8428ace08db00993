"""The process in which a fresh engine first runs.

``python -m kdc.deploy.parity.trt_first_run REQUEST`` ends with a JSON line.
Its layers are profiled, and it segments the golden image that lies beside it. If it crashes, it crashes alone.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ...distill import console
from ...distill.errors import KdcError
from ..artefacts.beside import golden_path
from ..runtimes.trt.trt_runtime import TrtRuntime
from .golden import check_opened, read_golden


def main() -> None:
    """Prove the engine that the first argument names."""
    console.json_mode = True  # what is said goes to stderr
    request = json.loads(sys.argv[1])
    try:
        path = Path(request["engine"])
        runtime = TrtRuntime(path)
        with runtime:
            answer: dict[str, Any] = {"proof": runtime.proof()[0].to_dict(), "golden": None}
            if golden_path(path).is_file():
                answer["golden"] = check_opened(runtime, read_golden(path)).to_dict()
    except KdcError as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        sys.exit(error.exit_code)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
