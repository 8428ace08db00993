"""The Python door: every command of the command line as a function, for notebooks and scripts.

Names, defaults and order of the arguments are those of the flags, and the same code runs. What a command prints with
``--json`` is the record that its function returns: fields to read, and ``to_dict()``. Errors are those of
``distill/errors.py``. Nothing is printed unless ``kdc.api.progress`` is True. Importing this file imports no torch.
What editors are told about it is in ``api.pyi``, which ``python tests/_stub.py`` writes.
"""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin

#: name here -> the file that the function of the command stands in, and its name there
_FUNCTIONS = {
    "bench_accuracy": ".deploy.bench.commands:accuracy",
    "bench_flops": ".deploy.bench.commands:flops",
    "bench_latency": ".deploy.bench.commands:latency",
    "bench_memory": ".deploy.bench.commands:memory",
    "bench_params": ".deploy.bench.commands:params",
    "bench_throughput": ".deploy.bench.commands:throughput",
    "bench_tradeoff": ".deploy.bench.commands:tradeoff",
    "calibrate": ".export.commands:calibrate",
    "compare": ".distill.commands.compare:compare",
    "data_check": ".distill.commands.data:data_check",
    "data_info": ".distill.commands.data:data_info",
    "data_ls": ".distill.commands.data:data_ls",
    "demo": ".export.commands:demo",
    "distill": ".distill.commands.training:distill",
    "doctor": ".deploy.commands:doctor",
    "evaluate": ".deploy.commands:evaluate",
    "export_aoti": ".export.targets_command:export_aoti",
    "export_bundle": ".export.targets_command:export_bundle",
    "export_onnx": ".export.commands:export_onnx",
    "export_openvino": ".export.targets_command:export_openvino",
    "export_triton": ".export.targets_command:export_triton",
    "export_trt": ".export.commands:export_trt",
    "methods_info": ".distill.commands.methods:methods_info",
    "methods_ls": ".distill.commands.methods:methods_ls",
    "models_info": ".distill.commands.models:models_info",
    "models_ls": ".distill.commands.models:models_ls",
    "parity": ".deploy.parity.command:parity",
    "predict": ".deploy.predict.command:predict",
    "probe": ".distill.commands.probe:probe",
    "report": ".deploy.commands:report",
    "runs_check": ".distill.commands.runs:runs_check",
    "runs_info": ".distill.commands.runs:runs_info",
    "runs_ls": ".distill.commands.runs:runs_ls",
    "runs_rm": ".distill.commands.runs:runs_rm",
    "train": ".distill.commands.training:train",
    "trust_add": ".deploy.artefacts.trust_command:trust_add",
    "trust_ls": ".deploy.artefacts.trust_command:trust_ls",
    "trust_rm": ".deploy.artefacts.trust_command:trust_rm",
    "trust_show": ".deploy.artefacts.trust_command:trust_show",
    "verify": ".distill.commands.verify:verify",
    "open_run": ".distill.run.folder:find_run",
    "open_runtime": ".deploy.runtimes.open:open_runtime",
}

#: print what the commands print: lines, tables and bars
progress = False


def __getattr__(name: str) -> Callable[..., Any]:
    """Import a function when it is asked for."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file, _, word = _FUNCTIONS[name].partition(":")
    function = _silent(getattr(import_module(file, __package__), word), name)
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    """List the functions, for completion in a notebook."""
    return [*_FUNCTIONS, "progress"]


def _silent(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Let a function print only where that is asked for, and see to its arguments as the command line does."""
    from .distill import console
    from .distill.run.seal import sealing

    signature = inspect.signature(function)
    parameters = [each.replace(kind=each.POSITIONAL_OR_KEYWORD) for each in signature.parameters.values()]
    signature = signature.replace(parameters=parameters)

    @functools.wraps(function)
    def call(*arguments: Any, **flags: Any) -> Any:
        bound = signature.bind(*arguments, **flags).arguments
        values = {key: _fitted(key, value, signature.parameters[key].annotation) for key, value in bound.items()}
        words = ", ".join(f"{key}={value!r}" for key, value in bound.items())
        with console.door(f"kdc.api.{name}({words})", silent=not progress), sealing():
            return function(**values)

    call.__name__ = call.__qualname__ = name
    vars(call)["__signature__"] = signature
    return call


def _fitted(key: str, value: Any, annotation: Any) -> Any:
    """Return a value as the command line would give it to a flag of this type.

    A path may be text or ``Path``, one value stands for a list of one, and (height, width) for "HxW".

    Raises:
        UsageError: it is of another type, or beyond the flag's bounds.
    """
    from .distill.errors import UsageError

    if get_origin(annotation) is not Annotated:
        return str(value) if isinstance(value, Path) and annotation is str else value
    if value is None:
        return None
    kind, mark = get_args(annotation)[:2]
    kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)

    inner = next((get_args(each)[0] for each in kinds if get_origin(each) is list), None)
    if inner is not None:
        items = value if isinstance(value, list | tuple) else [value]
        return [_fitted(key, item, Annotated[inner, mark]) for item in items]

    if str in kinds and isinstance(value, Path):
        value = str(value)
    elif str in kinds and isinstance(value, tuple):
        value = "x".join(map(str, value))
    elif Path in kinds and isinstance(value, str):
        value = Path(value)
    if not isinstance(value, kinds) and not (float in kinds and isinstance(value, int)):
        raise UsageError(
            f"{key}={value!r}: {' or '.join(each.__name__ for each in kinds if each is not NoneType)} is needed"
        )

    low, high = getattr(mark, "min", None), getattr(mark, "max", None)
    if (low is not None and value < low) or (high is not None and value > high):
        raise UsageError(f"{key}={value!r}: {_range(low, high)} is needed")
    return value


def _range(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"{low:g} or more" if low is not None else f"{high:g} or less"
    return f"a number from {low:g} to {high:g}"
