"""The Python door: every command of the command line as a function, for notebooks and scripts.

Names, defaults and order of the arguments are those of the flags, and the same code runs. What a command prints with
``--json`` is the record that its function returns: fields to read, and ``to_dict()``. Errors are those of
``distill/errors.py``. Nothing is printed unless ``kdc.api.progress`` is True. Importing this file imports no torch.
"""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .deploy.bench.commands import accuracy as bench_accuracy
    from .deploy.bench.commands import flops as bench_flops
    from .deploy.bench.commands import latency as bench_latency
    from .deploy.bench.commands import memory as bench_memory
    from .deploy.bench.commands import params as bench_params
    from .deploy.bench.commands import throughput as bench_throughput
    from .deploy.bench.commands import tradeoff as bench_tradeoff
    from .deploy.commands import doctor, evaluate, report
    from .deploy.parity.command import parity
    from .deploy.predict.command import predict
    from .deploy.runtimes.open import open_runtime
    from .distill.commands.compare import compare
    from .distill.commands.data import data_check, data_info, data_ls
    from .distill.commands.methods import methods_info, methods_ls
    from .distill.commands.models import models_info, models_ls
    from .distill.commands.probe import probe
    from .distill.commands.runs import runs_info, runs_ls, runs_rm
    from .distill.commands.training import distill, train
    from .distill.commands.verify import verify
    from .distill.run.folder import find_run as open_run
    from .export.commands import calibrate, demo, export_onnx, export_trt
    from .export.targets_command import export_aoti, export_bundle, export_openvino, export_triton

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
    "runs_info": ".distill.commands.runs:runs_info",
    "runs_ls": ".distill.commands.runs:runs_ls",
    "runs_rm": ".distill.commands.runs:runs_rm",
    "train": ".distill.commands.training:train",
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
    """Let a function print only where that is asked for, and take paths as text or as ``Path``."""
    from .distill import console

    signature = inspect.signature(function)
    parameters = [each.replace(kind=each.POSITIONAL_OR_KEYWORD) for each in signature.parameters.values()]
    signature = signature.replace(parameters=parameters)
    kinds = {key: str(parameter.annotation) for key, parameter in signature.parameters.items()}

    @functools.wraps(function)
    def call(*arguments: Any, **flags: Any) -> Any:
        values = {
            key: _as_typed(value, kinds[key]) for key, value in signature.bind(*arguments, **flags).arguments.items()
        }
        with console.silence(not progress):
            return function(**values)

    call.__name__ = call.__qualname__ = name
    vars(call)["__signature__"] = signature
    return call


def _as_typed(value: Any, kind: str) -> Any:
    """Return paths as the function wants them: text, as they come from the command line, or ``Path``."""
    if isinstance(value, list | tuple):
        return [_as_typed(each, kind) for each in value]
    if isinstance(value, Path) and "Path" not in kind:
        return str(value)
    if isinstance(value, str) and "Path" in kind and "str" not in kind:
        return Path(value)
    return value
