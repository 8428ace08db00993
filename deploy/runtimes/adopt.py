"""A file of another maker made ready for what kdc makes of it: what was settled of it is written into a copy."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import ModelProto, helper

from ...distill.preprocess import Policy
from ..artefacts.onnx_order import put_right
from ..artefacts.safe_onnx import save_own
from .base import Spec
from .open import open_runtime
from .ort_runtime import read_info
from .said import NOTHING, Said


@contextmanager
def adopted(
    path: Path, size: tuple[int, int] | None = None, said: Said = NOTHING, fit: Policy | None = None
) -> Iterator[Path]:
    """Give an ONNX file as kdc's own are: of one size, its answer first, and with metadata that say how to read it.

    Args:
        path: the file; one that kdc exported is given as it is.
        size: height and width, where the file leaves them free.
        said: what is known of it that it does not say itself.
        fit: how the copy declares to take images of other sizes (default: as the file does).

    Raises:
        KdcError: as ``open_runtime``.
    """
    if read_info(path).own:
        with open_runtime(path, size=size, said=said):  # what does not fit is refused alike
            yield path
        return
    with open_runtime(path, size=size, said=said) as runtime:
        spec, name = runtime.spec, runtime.source.name
    model = onnx.load(str(path))
    _settle(model, replace(spec, fit=fit or spec.fit))
    with tempfile.TemporaryDirectory(prefix="kdc-") as folder:
        copy = Path(folder) / name
        save_own(model, copy)
        yield copy


def _settle(model: ModelProto, spec: Spec) -> None:
    """Write into a graph what was settled of it."""
    stored = {tensor.name for tensor in model.graph.initializer}
    image = next(value for value in model.graph.input if value.name not in stored)
    elem = image.type.tensor_type.elem_type
    shape = [image_batch(image) if n is None else n for n in spec.shape]
    image.CopyFrom(helper.make_tensor_value_info(image.name, elem, shape))

    outputs = sorted(model.graph.output, key=lambda value: value.name != spec.answer.name)
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    for value in copies:  # they may state sizes that are free no longer
        value.type.tensor_type.ClearField("shape")
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.extend(copies)
    put_right(model)

    facts = {entry.key: entry.value for entry in model.metadata_props}
    facts |= {"kdc.preprocess": json.dumps(spec.preprocess.to_dict()), "kdc.answer": json.dumps(spec.answer.to_dict())}
    facts["kdc.fit"] = json.dumps(spec.fit)
    facts |= {"kdc.classes": json.dumps(list(spec.classes))} if spec.classes else {}
    del model.metadata_props[:]
    helper.set_model_props(model, facts)


def image_batch(image: onnx.ValueInfoProto) -> str:
    """Name the free batch of an input."""
    dims = image.type.tensor_type.shape.dim
    return (dims[0].dim_param if dims else "") or "batch"
