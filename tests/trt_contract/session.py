"""What the contract tests do in a process of its own: ``session.py STEPS`` ends with one line of JSON."""

import ctypes
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kdc.deploy.runtimes.open import open_runtime
from kdc.distill.errors import KdcError
from kdc.distill.preprocess import NAMED

K, H, W = 3, 4, 6


def missing(names: list[list[str]]) -> list[str]:
    """Return which chains of names the bindings lack."""
    trt = importlib.import_module("tensorrt")
    lacking = []
    for chain in names:
        value: Any = trt
        for name in chain:
            value = getattr(value, name, None)
        if value is None:
            lacking.append(".".join(chain))
    return lacking


def wrong_calls() -> dict[str, str]:
    """Call real methods wrongly: what keeps a test with these libraries from passing whatever our code calls."""
    trt: Any = importlib.import_module("tensorrt")
    from kdc.deploy.runtimes.trt.logger import make_logger

    logger = make_logger(trt)
    builder, engine = trt.Builder(logger), trt.Runtime(logger).deserialize_cuda_engine(b"KDC PLAN")
    context, config = engine.create_execution_context(), builder.create_builder_config()
    calls = {
        "a stream that is text": lambda: context.execute_async_v3("a"),
        "an address that is text": lambda: context.set_tensor_address("image", "a"),
        "a flag that is text": lambda: config.set_flag("TF32"),
        "flags that are text": lambda: builder.create_network("x"),
        "a config that is missing": lambda: builder.build_serialized_network(builder.create_network(0)),
        "a name that does not exist": lambda: context.execute_async_v4(0),
    }
    said = {}
    for what, call in calls.items():
        try:
            call()
            said[what] = "accepted"
        except (TypeError, AttributeError) as error:
            said[what] = type(error).__name__
    return said


def network(head: str, batch: int | str, preprocess: str, half: bool) -> Path:
    """Write an ONNX file with the ports of the engine that the libraries pretend to be."""
    weights = np.eye(K, dtype=np.float32).reshape(K, K, 1, 1)
    nodes = [helper.make_node("Conv", ["image", "w"], ["out" if head == "logits" else "z"])]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, K, H, W])
    if head == "argmax":
        nodes.append(helper.make_node("ArgMax", ["z"], ["long"], axis=1, keepdims=0))
        nodes.append(helper.make_node("Cast", ["long"], ["out"], to=TensorProto.UINT8))
        out = helper.make_tensor_value_info("out", TensorProto.UINT8, [batch, H, W])
    stored = [numpy_helper.from_array(weights, "w")]
    if half:  # enough for the file to call itself float16
        stored[0] = numpy_helper.from_array(weights.astype(np.float16), "w16")
        nodes.insert(0, helper.make_node("Cast", ["w16"], ["w"], to=TensorProto.FLOAT))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, K, H, W])
    graph = helper.make_graph(nodes, "net", [image], [out], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    facts = {"preprocess": NAMED[preprocess].to_dict(), "classes": ["a", "b", "c"]}
    helper.set_model_props(model, {f"kdc.{key}": json.dumps(value) for key, value in facts.items()})
    onnx.save(model, "model.onnx")
    return Path("model.onnx")


def golden(source: Path, preprocess: str, right: bool) -> None:
    """Write the golden image of that network, with every class shifted by one where it shall not be ``right``."""
    from kdc.deploy.parity.golden import GoldenFacts, capture, write_golden
    from kdc.deploy.parity.tolerances import tolerances

    image = np.random.default_rng(2).integers(0, 256, (H, W, 3), np.uint8)
    mask = NAMED[preprocess].apply(image[None]).argmax(1)[0].astype(np.uint8)
    limits, prepare = tolerances("fp16"), NAMED[preprocess]
    facts = GoldenFacts("0", 1.0, "made up", True, "numpy", limits, prepare, (H, W))
    made = mask if right else ((mask + 1) % K).astype(np.uint8)
    write_golden(source, capture(image, (made, made), None, 0.0, facts))


def build(
    head: str = "logits",
    batch: int | str = "n",
    preprocess: str = "imagenet",
    half: bool = False,
    right: bool | None = None,
    **flags: Any,
) -> dict[str, Any]:
    """Build ``model.engine`` through kdc's own builder; return its manifest, or the error.

    ``right``: whether a golden image beside the ONNX file is; None for no such image.
    """
    from kdc.export.to_trt import BuildFlags, build_engine

    if "timing_cache" in flags:
        flags["timing_cache"] = Path(flags["timing_cache"])
    try:
        source = network(head, batch, preprocess, half)
        if right is not None:
            golden(source, preprocess, right)
        return build_engine(source, Path("model.engine"), BuildFlags(**flags)).to_dict()
    except KdcError as error:
        return {"error": str(error), "exit_code": error.exit_code}


def run(images: int, size: tuple[int, int] = (H, W), **options: Any) -> dict[str, Any]:
    """Open ``model.engine`` by its suffix and do everything a runtime can; compare with numpy; or return the error."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, *size, 3), np.uint8)
    try:
        with open_runtime("model.engine", device="cuda", **options) as runtime:
            padded = runtime.pad(pixels)
            x = runtime.spec.preprocess.apply(padded)
            want = x.argmax(1).astype(np.uint8)
            logits = runtime.spec.head == "logits"
            out = [runtime.infer(x) for _ in range(2)]
            staged = runtime.staged(x)()
            timed = runtime.timed(x)
            parts = timed() if timed is not None else {}
            # between the others: what was measured must not disturb what is run
            masks = [runtime.masks(pixels), runtime.masks(pixels[:1]), runtime.masks(pixels)]
            wanted = want[:, : size[0], : size[1]]
            return {
                "infer": all(np.array_equal(each, x if logits else want) for each in out),
                "masks": all(np.array_equal(made, wanted[: len(made)]) for made in masks),
                "dtype": [str(out[0].dtype), str(masks[0].dtype)],
                "staged": staged,
                "parts": parts,
                "provider": runtime.provider,
                "name": runtime.name,
                "precision": runtime.precision,
                "tf32": runtime.tf32,
                "shape": runtime.spec.shape,
                "classes": runtime.spec.classes,
                "modules": [name for name in ("torch", "pycuda") if name in sys.modules],
            }
    except KdcError as error:
        return {"error": str(error), "exit_code": error.exit_code}


def buffers() -> dict[str, Any]:
    """Move data, run every kernel, measure and capture through cuda-python's real bindings."""
    from kdc.deploy.gpu.kernels import SIGNATURES, levels
    from kdc.deploy.gpu.open import open_buffers

    rng, preprocess = np.random.default_rng(1), NAMED["bgr-mean"]
    images = rng.integers(0, 256, (2, 5, 7, 3), np.uint8)
    scores = rng.standard_normal((2, 9, 5, 7)).astype(np.float32)
    scores[0, 3, 2, 2], scores[0, 5, 2, 2], scores[1, :, 0, 0] = np.nan, np.nan, 1.0
    made = open_buffers()
    first, last = made.event(), made.event()
    made.record(first)

    def there(array: np.ndarray) -> int:
        address = made.alloc(array.nbytes)
        made.upload(address, array)
        return address

    def back(address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        array = made.pinned(shape, dtype)
        made.download(array, address)
        made.synchronize()
        return array

    same = {}
    for dtype, word in (("float32", "float"), ("float16", "half")):
        want = preprocess.apply(images).astype(dtype)
        out = made.alloc(want.nbytes)
        made.kernel(f"normalise_{word}")(70, there(images), there(levels(preprocess)), out, 70, 35, 1)
        same[f"normalise_{word}"] = bool(np.array_equal(back(out, want.shape, dtype), want))
        typed, mask = scores.astype(dtype), made.alloc(70)
        made.kernel(f"argmax_{word}")(70, there(typed), mask, 70, 35, 9)
        same[f"argmax_{word}"] = bool(np.array_equal(back(mask, (2, 5, 7), "uint8"), typed.argmax(1)))
    assert list(same) == [name for word in ("float", "half") for name in SIGNATURES if name.endswith(word)]
    one, two = there(np.arange(4, dtype=np.uint8)), made.pinned((4,), "uint8")
    two[:] = 0
    launch = made.capture(lambda: made.download(two, one))
    before = two.tolist()
    launch()
    made.synchronize()
    made.record(last)
    try:
        made.alloc(1 << 40)
        room = "given"
    except KdcError as error:
        room = f"{error.exit_code}"
    try:
        made.capture(made.synchronize)
        refused = "nothing"
    except KdcError as error:
        refused = str(error)
    facts = {"name": made.name, "gpu": str(made.gpu), "cuda": made.gpu.cuda, "ms": made.elapsed(first, last)}
    facts |= {"refused": refused, "same": same, "captured": [before, two.tolist()], "no room": room}
    made.close()
    return facts | {"alive": ctypes.CDLL("libcuda.so.1").stub_alive()}


if __name__ == "__main__":
    results = [globals()[name](**arguments) for name, arguments in json.loads(sys.argv[1])]
    sys.stdout.write("\n" + json.dumps(results) + "\n")
