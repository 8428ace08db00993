"""Where two forms of one network part: the inner values of both, layer by layer, on one image.

Two ONNX files are compared at every value whose name both have (casting and quantising keep names). torch and ONNX are
compared at every convolution, which the exporter names after the module: its input and its output, batch norm folded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import load_external_data_for_model

from ...distill.errors import UsageError, need
from ...distill.run.records import Record
from ...distill.threads import asked_threads
from ..artefacts.safe_onnx import load_checked
from ..runtimes.base import Runtime
from ..runtimes.simulate import COMPUTED, twin
from ..runtimes.torch_runtime import TorchRuntime

#: a layer stands out if its error is more than this many times that of its inputs
FACTOR = 4.0
#: ... or of what the type alone brings, relative to the size of the values
FLOOR = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.6e-2, "int8": 5e-2, "fp8": 1e-1}
#: values looked at in one pass: more need more memory, fewer more passes
AT_ONCE = 16
WORST = 8


@dataclass(frozen=True)
class Layer:
    """A value inside the network, the layer that makes it, and how far the two sides are apart there."""

    value: str
    #: the module's name where the layer has weights, else the node's and the module that it comes after
    name: str
    op: str
    #: root mean square of the difference over that of the reference; inf where the candidate is not finite
    error: float
    #: the largest such error of what goes in
    error_in: float


@dataclass(frozen=True)
class Explanation(Record):
    """Which layer is the first to part, and which contribute most."""

    first: Layer | None
    #: by how much they add to the error of their inputs, the largest first
    worst: list[Layer]
    #: of the networks' inputs (preprocessing) and of the last value compared
    error_in: float
    error_out: float
    compared: int
    factor: float
    floor: float

    def line(self) -> str:
        """Say it in one line."""
        rule = f"error above {self.factor:g} x that of its inputs or {self.floor:g}; {self.compared} values compared"
        if self.error_in:
            return (
                f"the networks are given different inputs (relative error {self.error_in:.2g}): look at preprocessing"
            )
        if self.first is None:
            return f"no layer stands out ({rule}); it grows to {self.error_out:.2g} at the last"
        layer = self.first
        return (
            f"first diverging layer: {layer.name} ({layer.op}), relative error {layer.error:.2g} from inputs at "
            f"{layer.error_in:.2g} ({rule})"
        )


def explain(reference: Runtime, candidate: Runtime, image: np.ndarray) -> Explanation:
    """Find the first layer at which ``candidate`` parts from ``reference`` on one image.

    Args:
        reference: a checkpoint or an ONNX file, opened.
        candidate: an ONNX file, opened, of the same input size.
        image: uint8 RGB ``(H, W, 3)``, of any size.

    Raises:
        UsageError: a side whose layers cannot be looked into, or no layer that both have.
    """
    if candidate.name != "onnxruntime" or not (reference.name == "onnxruntime" or isinstance(reference, TorchRuntime)):
        raise UsageError(
            f"--explain looks into a checkpoint or ONNX file and an ONNX file made from it, not into {reference.name} "
            f"and {candidate.name}; name the ONNX file that was built from"
        )
    if isinstance(reference, TorchRuntime) and candidate.precision.startswith(("int8", "fp8")):
        raise UsageError(
            f"{candidate.source.name} is quantised: its layers compare with those of the float ONNX file that it was "
            f"made from: kdc parity FLOAT.onnx {candidate.source} --explain"
        )

    # the values that both have
    view = candidate.fit.views(image)[0].image
    inputs = [_batched(runtime, view) for runtime in (reference, candidate)]
    right = _Onnx(candidate)
    left = _Torch(reference, right.model.graph) if isinstance(reference, TorchRuntime) else _Onnx(reference)
    graph = left.model.graph if isinstance(left, _Onnx) else right.model.graph
    shared = [name for node in graph.node for name in node.output if name in left.names and name in right.names]
    if not shared:
        raise UsageError(
            f"{reference.source.name} and {candidate.source.name} name no layer alike: they have no common origin"
        )

    # compare them, some at a time
    comparable = inputs[0].shape == inputs[1].shape and inputs[0].dtype == inputs[1].dtype
    errors = {graph.input[0].name: _error(*inputs) if comparable else 0.0}
    for start in range(0, len(shared), AT_ONCE):
        names = shared[start : start + AT_ONCE]
        a, b = left.values(names, inputs[0]), right.values(names, inputs[1])
        for name in names:
            if name in a and name in b and a[name].shape == b[name].shape:
                errors[name] = _error(a[name], b[name])

    layers = list(_layers(graph, errors))
    floor = FLOOR[candidate.precision.partition("+")[0]]
    return Explanation(
        next((layer for layer in layers if layer.error > FACTOR * max(layer.error_in, floor)), None),
        sorted(layers, key=lambda layer: layer.error_in - layer.error)[:WORST],
        errors[graph.input[0].name],
        layers[-1].error if layers else 0.0,
        len(layers),
        FACTOR,
        floor,
    )


class _Onnx:
    """The inner values of an ONNX file, by their names."""

    def __init__(self, runtime: Runtime) -> None:
        self.model = load_checked(runtime.source)
        load_external_data_for_model(self.model, str(runtime.source.resolve().parent))
        #: value -> what the layers after it see; an activation may be nothing but the range of its quantisation
        self._seen = _quantised(self.model.graph)
        if runtime.precision not in COMPUTED:
            self.model = twin(self.model)
        self.names = {name for node in self.model.graph.node for name in node.output if name}
        self._outputs = {value.name for value in self.model.graph.output}

    def values(self, names: list[str], x: np.ndarray) -> dict[str, np.ndarray]:
        """Run with these values as outputs; those that are no floats are left out.

        Only these, so that the runtime fuses everything else as it always does.
        """
        ort = need("onnxruntime", "cpu")
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        seen = [self._seen.get(name, name) for name in names]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in set(seen) - self._outputs)

        options = ort.SessionOptions()
        options.intra_op_num_threads = asked_threads() or 0
        options.log_severity_level = 4
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(seen, {session.get_inputs()[0].name: x})
        return {name: value for name, value in zip(names, values, strict=True) if value.dtype.kind == "f"}


class _Torch:
    """Inputs and outputs of a checkpoint's convolutions, by the names that they have in its ONNX file."""

    def __init__(self, runtime: TorchRuntime, graph: onnx.GraphProto) -> None:
        self._runtime = runtime
        modules = dict(runtime.model.named_modules())
        #: value -> module, and whether it is what goes in
        self._at: dict[str, tuple[str, bool]] = {}
        for node in graph.node:
            if node.op_type == "Conv" and (module := module_of(node)) and module in modules:
                self._at.setdefault(node.input[0], (module, True))
                self._at[node.output[0]] = (module, False)
        self._logits = graph.output[0].name if runtime.spec.head == "logits" else None
        self.names = {*self._at, self._logits}

    def values(self, names: list[str], x: np.ndarray) -> dict[str, np.ndarray]:
        """Run with hooks on the modules of these values."""
        import torch
        from torch import Tensor, nn
        from torch.nn.modules.batchnorm import _BatchNorm

        modules = dict(self._runtime.model.named_modules())
        kept: dict[tuple[str, bool], np.ndarray] = {}
        last: tuple[str, Tensor | None] = "", None

        def keep(module: str, going_in: bool, value: Tensor) -> None:
            kept[module, going_in] = value.detach().float().cpu().numpy().copy()  # a later layer may work in place

        def around(name: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                nonlocal last
                keep(name, True, inputs[0])
                keep(name, False, output)
                last = name, output

            return hook

        def folded(norm: Any, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0] is last[1]:
                values = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
                keep(last[0], False, nn.functional.batch_norm(inputs[0], *values, eps=norm.eps))

        layers = {self._at[name][0] for name in names if name in self._at}
        hooks = [modules[name].register_forward_hook(around(name)) for name in layers]
        hooks += [m.register_forward_pre_hook(folded) for m in modules.values() if isinstance(m, _BatchNorm)]
        try:
            with torch.inference_mode():
                logits = self._runtime.infer(x)
        finally:
            for hook in hooks:
                hook.remove()
        values = {name: kept[self._at[name]] for name in names if name in self._at}
        return values | ({self._logits: logits} if self._logits in names else {})


def module_of(node: onnx.NodeProto) -> str:
    """Return the module that a node's weights belong to, empty without: ``model.head.conv.weight`` -> ``head.conv``."""
    for name in node.input[1:]:
        module, weight, _ = name.partition(".weight")  # what follows was added by casting or quantising
        if weight and module.startswith("model."):
            return module.removeprefix("model.")
    return ""


def _label(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> str:
    """Name a node by its module, or by its own name and the module that it comes after."""
    if module := module_of(node):
        return module
    own, before = node.name or node.output[0], node
    while before.input and before.input[0] in makers:
        before = makers[before.input[0]]
        if module := module_of(before):
            return f"{own} after {module}"
    return own


def _quantised(graph: onnx.GraphProto) -> dict[str, str]:
    """Return, for each value that is quantised, what it is once dequantised again."""
    dequantised = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {
        node.input[0]: dequantised[node.output[0]]
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.output[0] in dequantised
    }


def _layers(graph: onnx.GraphProto, errors: Mapping[str, float]) -> Iterator[Layer]:
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for value in node.output:
            if value in errors:
                error_in = max((errors[name] for name in _before(node, makers, errors)), default=0.0)
                yield Layer(value, _label(node, makers), node.op_type, errors[value], error_in)


def _before(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], errors: Mapping[str, float]) -> set[str]:
    """Return the nearest compared values that a node depends on."""
    nearest: set[str] = set()
    seen: set[str] = set()
    todo = list(node.input)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in errors:
            nearest.add(name)
        elif name in makers:
            todo += makers[name].input
    return nearest


def _batched(runtime: Runtime, image: np.ndarray) -> np.ndarray:
    return runtime.prepare(np.repeat(image[None], runtime.spec.batch or 1, axis=0))


def _error(reference: np.ndarray, candidate: np.ndarray) -> float:
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    if not np.isfinite(b).all():
        return float("inf")
    return float(np.sqrt(((a - b) ** 2).mean()) / max(np.sqrt((a**2).mean()), 1e-12))
