"""The process in which a fresh engine is profiled: ``python -m kdc.deploy._trt_prover REQUEST`` ends with a JSON line.

An engine that crashes takes nothing with it but the proof.
"""

import json
import sys
from pathlib import Path

from ..distill import console
from ..distill.errors import KdcError
from .trt_runtime import TrtRuntime


def main() -> None:
    """Prove the engine that the first argument names."""
    console.json_mode = True  # what is said goes to stderr
    request = json.loads(sys.argv[1])
    try:
        runtime = TrtRuntime(Path(request["engine"]))
        answer = {"proof": runtime.proof()[0].to_dict()}
        runtime.close()
    except KdcError as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        sys.exit(error.exit_code)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
