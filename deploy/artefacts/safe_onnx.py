"""What an ONNX file of unknown origin must survive before anything that trusts it sees it.

Protocol buffers and ONNX's own checks are native code that a made-up file may crash or fill the memory with, so every
file is first read in a process of its own, with little memory and time. A manifest is no excuse: it says that a file
is whole, not whose it is. A good verdict is remembered by the file's bytes (see ``verdicts``).
"""

import contextlib
import hashlib
import json
import os
import signal
from functools import lru_cache
from pathlib import Path
from typing import Any

import google.protobuf
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, inliner, shape_inference

from ... import __version__
from ...distill.errors import ResourceError, WeightsError, one_line
from ...distill.lfs import CURE, is_pointer
from ...distill.run.seal import check_sealed
from ..child import ChildDiedError, call, serve
from . import onnx_loops, onnx_order, onnx_rules, verdicts
from .onnx_order import put_right
from .onnx_rules import bodies, locations, refuse, refuse_shapes

#: protocol buffers end here; a larger network has external data
LARGEST_FILE = 2**31 - 1
#: of the child: bytes on top of what it holds once its libraries are loaded, and seconds
MEMORY, SECONDS = 2**30, 120
#: times the file's size comes on top of MEMORY: the file, its parsed form, a copy of each in the checks
COPIES = 7


def load_checked(path: Path) -> ModelProto:
    """Read an ONNX file that may be anybody's, without its external data, and refuse what is not fit to be run.

    Its nodes are in order and its outputs have a shape, whether or not they had in the file; see ``put_right``.

    Raises:
        WeightsError: the file is missing, broken, cut off, changed since kdc wrote it, or holds something that kdc
            does not trust; see ``refuse``.
    """
    try:
        state = path.stat()
        if not path.is_file():
            raise WeightsError(f"{path} is no file; name an .onnx file")
        check_sealed(path)
        if state.st_size > LARGEST_FILE:
            raise WeightsError(
                f"{path} has {state.st_size} bytes, an ONNX file ends at 2 GiB; keep its weights beside it"
            )
        content = path.read_bytes()
        if is_pointer(content):
            raise WeightsError(f"{path} {CURE}")
        key = hashlib.sha256(content).hexdigest()
        if verdicts.recall(key, _rules()) is None:
            _vet(path.absolute(), key)
        model = _parse(content, path)
        refuse(model, path)
        for name in set(locations(model, path)):
            check_sealed(path.parent / name)
        if verdicts.recall(key, _rules()) != _beside(model, path):
            _vet(path.absolute(), key)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    put_right(model)
    return model


def save_own(model: ModelProto, path: Path) -> None:
    """Write a graph that kdc made, and examine it here: no stranger chose these bytes, so no child need read them.

    What is wrong with it is said when the file is opened.
    """
    content = model.SerializeToString()
    path.write_bytes(content)
    if not _fault(model, content, path):
        verdicts.remember_here(hashlib.sha256(content).hexdigest())


def whole(path: Path) -> bytes:
    """Return a file that may be anybody's as one that needs no other: its external data are put into it.

    Raises:
        WeightsError: see ``load_checked``; or the file would be too large for protocol buffers.
    """
    outside = external(path)
    if not outside:
        return path.read_bytes()
    try:
        model = onnx.load(str(path))
        if left := _outside(model, path):  # sparse ones stay where they are
            raise WeightsError(f"{path} keeps sparse weights in '{left}': refused; ask for one whole file")
        return model.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise WeightsError(f"{path} and '{outside}' make no single file, which ends at 2 GiB") from error


def external(path: Path) -> str:
    """Return the name of a file that an ONNX file keeps weights in; empty where it is whole."""
    return _outside(load_checked(path), path)


def _parse(content: bytes, path: Path) -> ModelProto:
    try:
        return onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise WeightsError(f"{path} is not an ONNX file or is cut off ({one_line(error)}); export it again") from error


def _outside(model: ModelProto, path: Path) -> str:
    return next(locations(model, path), "")


def _beside(model: ModelProto, path: Path) -> str:
    """Return a digest of the files that hold tensors of an accepted model."""
    names = sorted(set(locations(model, path)))
    hashes = [[name, _sha256(path.parent / name)] for name in names]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest() if names else verdicts.NONE


def _sha256(path: Path) -> str:
    """Return a file's; that of ``distill.run`` would have every child import what reads settings."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache
def _rules() -> str:
    """Return a digest of what a verdict depends on besides the file: this very code, its limits, what it calls."""
    files = (__file__, onnx_loops.__file__, onnx_order.__file__, onnx_rules.__file__)
    code = [_sha256(Path(str(file))) for file in files]
    parts = (__version__, onnx.__version__, google.protobuf.__version__, *code)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _vet(path: Path, key: str) -> None:
    """Read a file whose sha256 is ``key`` in a child process, and remember that it is good."""
    try:
        answer = call(
            "deploy.artefacts.safe_onnx",
            {"path": str(path), "loops": onnx_loops.SECONDS},
            SECONDS,
            OPENBLAS_NUM_THREADS="1",
        )
    except TimeoutError as error:
        raise WeightsError(f"{path} could not be read within {SECONDS} s: refused") from error
    except ChildDiedError as error:
        if error.code == -signal.SIGALRM:
            why = f"its loops do not end within {onnx_loops.SECONDS} s: refused; export it without control flow"
            raise WeightsError(f"{path}: {why}") from error
        if error.exit_code == ResourceError.exit_code:
            raise
        raise WeightsError(f"{path} made the process that reads it die ({error.end}): refused") from error
    if answer["sha256"] != key:
        raise WeightsError(f"{path} changed while it was read; wait until it is whole")
    verdicts.remember(key, answer["beside"], _rules())


def _examine(request: dict[str, Any]) -> dict[str, str]:
    """Return the hashes of what was read and accepted. Runs in the child.

    Raises:
        WeightsError: the file is refused.
    """
    path = Path(request["path"])
    _limit(path.stat().st_size)
    try:
        content = path.read_bytes()
        model = _parse(content, path)
        os.chdir(path.parent)  # where the checker looks for what the model keeps in other files
        if why := _fault(model, content, path):
            raise WeightsError(why)
        if onnx_loops.has_loops(model, path):
            onnx_loops.try_loops(model, path, request["loops"])
        return {"sha256": hashlib.sha256(content).hexdigest(), "beside": _beside(model, path)}
    except MemoryError as error:
        why = f"{path} needs more than {MEMORY >> 20} MiB on top of its size to be read: refused"
        raise WeightsError(why) from error


def _fault(model: ModelProto, content: bytes, path: Path) -> str:
    """Say why a model is refused; empty where it is not."""
    try:
        refuse(model, path)
        content = model.SerializeToString() if put_right(model) else content
        # a small graph may make huge values (ConstantOfShape, Expand, Resize): inferring the shapes tells
        flat = inliner.inline_local_functions(model) if model.functions else model
        if flat.functions:  # of another opset than the graph's: what they make stays unknown
            return f"{path} has functions that cannot be put into its graph: refused; export it without"
        for body in bodies(shape_inference.infer_shapes(flat, data_prop=True), path):
            refuse_shapes(body, path)
        onnx.checker.check_model(content)
    except WeightsError as error:
        return str(error)
    except (shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        return f"{path} is no valid ONNX ({one_line(error)}): refused; export it again"
    return ""


def _limit(size: int) -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    most = pages * resource.getpagesize() + MEMORY + COPIES * size
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))  # at the latter it would be killed
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    serve(_examine)
