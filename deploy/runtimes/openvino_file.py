"""What an OpenVINO network (.xml with .bin beside) says of itself, read without OpenVINO and without its weights."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from onnx import helper

from ...distill.errors import WeightsError, reading
from ...distill.lfs import CURE, is_pointer
from ..artefacts.beside import manifest_of, weights_beside
from .answer import Port
from .file_info import FileInfo, file_info, metadata_of
from .trail import Nodes

#: element types of an .xml file in numpy's words
_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64"}
_TYPES |= {"u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64", "boolean": "bool"}
#: kinds of layers -> ONNX's operators, where their names differ
_ONNX = {"Result": "Identity", "Convert": "Cast", "Interpolate": "Resize", "SoftMax": "Softmax", "Multiply": "Mul"}
_ONNX |= {"Divide": "Div", "Subtract": "Sub", "Select": "Where", "GreaterEqual": "GreaterOrEqual", "LogicalNot": "Not"}
_ONNX |= {"Convolution": "Conv", "GroupConvolution": "Conv", "ConvolutionBackpropData": "ConvTranspose"}
_ONNX |= {"GroupConvolutionBackpropData": "ConvTranspose", "AvgPool": "AveragePool", "BatchNormInference": "Conv"}
#: layers that run a network within them more than once
_LOOPS = ("Loop", "TensorIterator")


def read_ir(path: Path) -> FileInfo:
    """Read an OpenVINO network's contract without OpenVINO and without its weights.

    ``precision`` is that of the stored weights: "fp16" for compressed ones, which OpenVINO computes in float32 here.

    Raises:
        WeightsError: the file is missing, broken, lacks its .bin, or does not segment images.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error

    if is_pointer(text):
        raise WeightsError(f"{path} {CURE}")
    plain = text.replace(b"\0", b"")  # in UTF-16 every letter has one
    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
        raise WeightsError(f"{path} defines entities, which no OpenVINO network needs: refused")
    with reading(path, WeightsError, "it is not an OpenVINO network or is cut off; export it again"):
        return _read(ET.fromstring(text), path)


def _read(net: ET.Element, path: Path) -> FileInfo:
    layers = net.findall("./layers/layer")
    if net.tag != "net" or not layers:
        raise WeightsError(f"{path} is not an OpenVINO network (no <net> with layers); export it again")
    if any(layer.get("type") in _LOOPS for layer in net.iter("layer")) and not manifest_of(path).values:
        raise WeightsError(
            f"{path} holds loops, which may never end: refused; make it from an ONNX file, which can be "
            "tried: kdc export openvino"
        )
    weights = weights_beside(path)
    if weights is not None and not weights.is_file():
        raise WeightsError(f"{path} needs the file '{weights.name}' beside it, which is missing; copy it along")

    inputs = [_input_port(layer) for layer in layers if layer.get("type") == "Parameter"]
    edges = {(e.get("to-layer"), e.get("to-port")): e for e in net.findall("./edges/edge")}
    by_id = {layer.get("id"): layer for layer in layers}
    results = [layer for layer in layers if layer.get("type") == "Result"]
    outputs = [_output_port(layer, edges, by_id) for layer in results]
    metadata = metadata_of((entry.tag, entry.get("value", "")) for entry in net.iterfind("./rt_info/framework/*"))
    nodes = _nodes(layers, edges)
    trails = {port.name: nodes.trail(f"{layer.get('id')}:0") for port, layer in zip(outputs, results, strict=True)}
    return file_info(path, inputs, outputs, _stored(layers), metadata, trails=trails)


def _nodes(layers: list[ET.Element], edges: dict[Any, ET.Element]) -> Nodes:
    """Return the layers as nodes of ONNX, as far as a trail needs them; values are named "layer:port"."""
    nodes, stored, shapes = [], {}, {}
    for layer in layers:
        kind, data, own = layer.get("type", ""), layer.find("data"), layer.get("id", "")
        made = [f"{own}:{port.get('id')}" for port in layer.findall("output/port")]
        shapes |= {name: _dims(port) for name, port in zip(made, layer.findall("output/port"), strict=True)}
        if kind == "Const":
            stored |= {name: tuple(n or 0 for n in shapes[name]) for name in made}
            continue
        into = [edges[own, port.get("id")] for port in layer.findall("input/port") if (own, port.get("id")) in edges]
        values = [f"{edge.get('from-layer')}:{edge.get('from-port')}" for edge in into]
        if kind == "Result":  # a value of its own, so that there is one to start at
            made, shapes[f"{own}:0"] = [f"{own}:0"], shapes.get(values[0] if values else "", ())
        node = helper.make_node(_ONNX.get(kind, kind), values, made)
        if kind == "TopK" and data is not None:
            node.attribute.append(helper.make_attribute("axis", int(data.get("axis", "1"))))
        nodes.append(node)
    return Nodes.linked(nodes, stored, shapes, {})


def _input_port(layer: ET.Element) -> Port:
    data, port = layer.find("data"), layer.find("output/port")
    kind = "" if data is None else data.get("element_type", "")
    name = ("" if port is None else port.get("names", "")).split(",")[0] or layer.get("name", "")
    return Port(name, _TYPES.get(kind, kind or "?"), _dims(port))


def _output_port(layer: ET.Element, edges: dict[Any, ET.Element], by_id: dict[str | None, ET.Element]) -> Port:
    edge = edges.get((layer.get("id"), "0"))
    source = by_id.get(edge.get("from-layer")) if edge is not None else None
    ports = [] if source is None or edge is None else source.findall("output/port")
    port = next((p for p in ports if edge is not None and p.get("id") == edge.get("from-port")), None)
    name = ("" if port is None else port.get("names", "")).split(",")[0] or layer.get("name", "")
    kind = ("" if port is None else port.get("precision", "")).lower()
    kind = {"fp32": "f32", "fp16": "f16"}.get(kind, kind)
    return Port(name, _TYPES.get(kind, kind or "?"), _dims(port))


def _dims(port: ET.Element | None) -> tuple[int | None, ...]:
    texts = [(d.text or "-1").strip() for d in (() if port is None else port.findall("dim"))]
    sizes = [int(text) if text.isdecimal() else -1 for text in texts]
    return tuple(size if size > 0 else None for size in sizes)


def _stored(layers: list[ET.Element]) -> str:
    data = [layer.find("data") for layer in layers if layer.get("type") == "Const"]
    kinds = {each.get("element_type") for each in data if each is not None}
    if any(layer.get("type") == "FakeQuantize" for layer in layers):
        return "int8"
    return "fp16" if "f16" in kinds else "fp32"
