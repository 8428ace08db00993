"""What reads which file: one function a kind, which makes a whole file in a folder and says how it is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from _mutations import Reader  # pyright: ignore[reportMissingImports]
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from kdc.calib.histograms import Statistics, collect
from kdc.deploy.artefacts import safe_onnx, verdicts
from kdc.deploy.artefacts.beside import manifest_beside, manifest_path
from kdc.deploy.artefacts.ledger import read_gates
from kdc.deploy.bench.memory import MemoryRecord
from kdc.deploy.bench.record import newest
from kdc.deploy.commands import report
from kdc.deploy.parity.golden import GoldenFacts, capture, read_golden, write_golden
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.openvino_file import read_ir
from kdc.deploy.runtimes.trt.manifest import read_manifest
from kdc.distill import models
from kdc.distill.compare.folder import Comparison
from kdc.distill.data import open_leniently, splits
from kdc.distill.data._check import check_data
from kdc.distill.models._tensors import read_tensors
from kdc.distill.preprocess import IMAGENET
from kdc.distill.run.checkpoint import load_state, load_student, save_state, save_student
from kdc.distill.run.files import sha256
from kdc.distill.run.folder import Run, find_run
from kdc.distill.settings.config import Config, resolve

NETWORK = "deeplabv3-mv2_035"
CLASSES = ["road", "sky", "car"]


def _data(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for name in ("a", "b"):
            cv2.imwrite(str(folder / f"images/{split}/{name}.png"), rng.integers(0, 256, (32, 48, 3), dtype=np.uint8))
            cv2.imwrite(str(folder / f"labels/{split}/{name}.png"), rng.integers(0, 3, (32, 48), dtype=np.uint8))
    return folder


def _open(folder: Path) -> None:
    """Read a folder of data as ``kdc data check`` and ``kdc train`` do."""
    for split in splits(str(folder)):
        open_leniently(str(folder), split).fingerprint()
    report = check_data(str(folder))
    report.to_dict()
    report.show()
    open_leniently(str(folder), "train").size()


def image(folder: Path, suffix: str = ".png") -> Reader:
    data = _data(folder / "data")
    path = data / "images" / "train" / f"a{suffix}"
    pixels = np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    path.with_suffix(".png").unlink()
    cv2.imwrite(str(path), pixels)
    return Reader(path, lambda: _open(data))


def jpeg(folder: Path) -> Reader:
    return image(folder, ".jpg")


def tiff(folder: Path) -> Reader:
    return image(folder, ".tif")


def mask(folder: Path) -> Reader:
    data = _data(folder / "data")
    return Reader(data / "labels" / "train" / "a.png", lambda: _open(data))


def palette_mask(folder: Path) -> Reader:
    from PIL import Image

    data = _data(folder / "data")
    path = data / "labels" / "train" / "a.png"
    picture = Image.open(path).convert("P")
    picture.putpalette([*range(256)] * 3)
    picture.save(path, bits=4)
    return Reader(path, lambda: _open(data))


def safetensors(folder: Path) -> Reader:
    path = folder / "weights.safetensors"
    save_file({"a.weight": torch.ones(3, 3), "b.bias": torch.zeros(5)}, str(path))
    return Reader(path, lambda: read_tensors(path))


def checkpoint(folder: Path) -> Reader:
    path = folder / "best.safetensors"
    save_student(path, models.build(NETWORK, 3, seed=0), {})
    return Reader(path, lambda: load_student(path))


def pth(folder: Path) -> Reader:
    path = folder / "weights.pth"
    torch.save({"state_dict": {"a.weight": torch.ones(3, 3), "b.bias": torch.zeros(5)}}, path)
    return Reader(path, lambda: read_tensors(path))


def old_pth(folder: Path) -> Reader:
    path = folder / "weights.pth"
    torch.save({"a.weight": torch.ones(3, 3)}, path, _use_new_zipfile_serialization=False)
    return Reader(path, lambda: read_tensors(path))


def state(folder: Path) -> Reader:
    for step in (1, 2):
        save_state(folder, {"stage": "main", "step": step, "student": {"a": torch.ones(2)}}, step)
    return Reader(folder / "last.json", lambda: load_state(folder), nested=True)


def _onnx(path: Path) -> Path:
    weights = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 16, 24]) for name in ("image", "z")]
    node = helper.make_node("Conv", ["image", "w"], ["z"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    facts = {"kdc.preprocess": IMAGENET.to_dict(), "kdc.classes": CLASSES, "kdc.palette": [[1, 2, 3]] * 3}
    facts |= {"kdc.head": "logits", "kdc.fit": "pad", "kdc.model": models.build(NETWORK, 3).spec().to_dict()}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    onnx.save(model, path)
    return path


def _run_onnx(path: Path) -> None:
    """Open and run a file as commands do; what its child would examine is examined here, in this child."""
    if not path.is_file():
        return
    safe_onnx._vet = lambda path, key: verdicts.remember_here(key, safe_onnx._examine({"path": str(path)})["beside"])
    safe_onnx._limit = lambda size: None
    with open_runtime(path) as runtime:
        runtime.infer(np.zeros([n or 1 for n in runtime.spec.shape], runtime.spec.dtype))


def onnx_graph(folder: Path) -> Reader:
    path = _onnx(folder / "model.onnx")
    return Reader(path, lambda: _run_onnx(path), apart=True)


def onnx_facts(folder: Path) -> Reader:
    """Read the metadata of an ONNX file, which a JSON file beside it stands for."""
    path, facts = _onnx(folder / "model.onnx"), folder / "facts.json"
    model = onnx.load(path)
    facts.write_text(json.dumps({each.key: json.loads(each.value) for each in model.metadata_props}))

    def read() -> None:
        try:
            values = json.loads(facts.read_bytes())
            del model.metadata_props[:]
            helper.set_model_props(model, {key: json.dumps(value) for key, value in values.items()})
        except (ValueError, AttributeError, RecursionError):
            return
        safe_onnx.save_own(model, path)
        with open_runtime(path) as runtime:
            runtime.infer(np.zeros([n or 1 for n in runtime.spec.shape], runtime.spec.dtype))
            json.dumps(runtime.spec.answer.to_dict())

    return Reader(facts, read, nested=True)


def openvino(folder: Path) -> Reader:
    path = folder / "model.xml"
    path.with_suffix(".bin").write_bytes(bytes(16))
    path.write_text(
        '<net name="n" version="11"><layers>'
        '<layer id="0" name="image" type="Parameter"><data shape="1,3,8,8" element_type="f32"/><output>'
        '<port id="0" precision="FP32" names="image"><dim>1</dim><dim>3</dim><dim>8</dim><dim>8</dim></port></output>'
        '</layer><layer id="1" name="r" type="Result"><input><port id="0"/></input></layer></layers>'
        '<edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges>'
        '<rt_info><framework><kdc.classes value="[&quot;a&quot;]"/></framework></rt_info></net>'
    )
    return Reader(path, lambda: read_ir(path).to_dict())


def card(folder: Path) -> Reader:
    data = _data(folder / "data")
    (data / "kdc.yaml").write_text(
        "classes: [road, sky, car]\nignore_index: 255\ncodes: {road: 0, sky: 1, car: 2}\nignore_codes: [255]\n"
        "palette: [[1, 2, 3], [4, 5, 6], [7, 8, 9]]\nbits: 8\nimages: images/{split}\nlabels: labels/{split}\n"
        "val_fraction: 0.5\nsplit_seed: 3\n"
    )
    return Reader(data / "kdc.yaml", lambda: _open(data))


def card_values(folder: Path) -> Reader:
    """The same card as JSON, which is YAML too, so that its values can be replaced."""
    reader = card(folder)
    values = {"classes": CLASSES, "ignore_index": [255], "codes": {"road": 0, "sky": 1, "car": [2]}, "bits": 8}
    values |= {"palette": [[1, 2, 3]] * 3, "ignore_codes": [255, 254], "images": "images/{split}", "split_seed": 1}
    reader.file.write_text(json.dumps(values | {"val_fraction": 0.5}))
    return Reader(reader.file, reader.read, nested=True)


def config(folder: Path) -> Reader:
    path = folder / "settings.yaml"
    path.write_text(Config().to_yaml())
    return Reader(path, lambda: resolve({}, file=path).to_yaml())


def config_values(folder: Path) -> Reader:
    path = folder / "settings.yaml"
    path.write_text(json.dumps(resolve({"method.name": "kt", "method.kt.T": 2.0}).model_dump(mode="json")))
    return Reader(path, lambda: resolve({}, file=path).to_yaml(), nested=True)


def list_file(folder: Path) -> Reader:
    data = _data(folder / "data")
    for split in ("train", "val"):
        rows = [f"images/{split}/{name}.png labels/{split}/{name}.png" for name in ("a", "b")]
        (data / f"{split}.lst").write_text("\n".join(rows))
    (data / "kdc.yaml").write_text("images: '{split}.lst'\nclasses: 3\n")
    return Reader(data / "train.lst", lambda: _open(data))


def _run(folder: Path, file: str, read: Callable[[Run], Any] | None = None) -> Reader:
    """Return the reader of a file of a run that no seal looks after, as in a run of an older kdc."""
    run = _made_run(folder)
    card = json.loads((run.path / "run.json").read_bytes())
    (run.path / "run.json").write_text(json.dumps({k: v for k, v in card.items() if k not in ("files", "sha256")}))
    return Reader(run.path / file, lambda: _report(run.path) if read is None else read(Run(run.path)), nested=True)


def _made_run(folder: Path) -> Run:
    spec = models.build(NETWORK, 3).spec().to_dict()
    scores = {"miou": 0.5, "iou": [0.1, 0.5, 0.0], "images": 2, "classes": CLASSES, "label_pixels": [1, 2, 3]}
    data = {"name": "d", "source": "builtin", "classes": CLASSES, "palette": [[1, 2, 3]] * 3, "num_classes": 3}
    data |= {"size": [64, 128], "notes": ["x"], "fingerprint": "f", "options": {"count": 4}}
    teacher = {"name": NETWORK, "spec": spec, "file": "t", "check": {"miou": 0.4, "chance": 0.1, "images": 3}}
    values = {"kind": "distill", "student": spec, "teacher": teacher, "data": data, "method": "kt", "final": scores}
    values |= {"terms": {"kt.lt": "2"}, "parents": ["t"], "seed": 1, "notes": ["n"], "commands": [["kdc", "eval"]]}
    run = Run.create("x", Config(), out=folder / "run", **values)
    run.record(status="finished")
    run.unlock()
    line = {"step": 1, "stage": "main", "lr": 0.1, "loss": 1.0, "task": {"ce": 1.0}, "terms": {"kt.lt": 1.0}}
    lines = [line | {"step": step, "weights": {"kt.lt": 2.0}} for step in (1, 2, 3)]
    lines += [{"step": 3, "stage": "main", "val": scores}]
    (run.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))

    # an exported file with its manifest, a gate, and a measurement
    run.export.mkdir()
    path = _onnx(run.export / "model.onnx")
    gate = {"stage": "onnx model", "file": path.name, "passed": True, "reasons": [], "images": 4, "agreement": 1.0}
    gate |= {"tied": 0.0, "max_diff": 1e-6, "max_relative": 1e-6, "miou_reference": 0.5, "miou_candidate": 0.5}
    gate |= {"reference": "torch", "candidate": "ort", "data": "d", "seconds": 1.0, "boundary_drop": None}
    gate |= {"worst_class": None, "tolerances": {"max_diff": 1e-4, "agreement": 0.99, "miou_drop": None, "tie": 0.0}}
    (run.path / "gates.json").write_text(json.dumps([gate]))
    manifest = {"file": path.name, "sha256": sha256(path), "kind": "onnx", "gate": gate, "fit": "pad", "onnx": {}}
    manifest |= {"versions": {"torch": "2"}, "source": {"file": "best.safetensors", "sha256": "0"}}
    manifest |= {"calibration": {"indices": [1, 2], "data": "d", "audit": ["x"]}, "int8": None, "qat": None}
    manifest |= {"cast": {"half_nodes": 3, "low": "fp16", "caster": "kdc", "float_nodes": ["a"], "casts": 1}}
    manifest |= {"calibrators": {"max": {"agreement": 0.9, "miou": 0.5, "drop": 0.1}}}
    manifest_path(path).write_text(json.dumps(manifest))
    return run


def _report(path: Path) -> None:
    run = find_run(path)
    json.dumps(run.card.to_dict(), default=str)
    assert run.image_size
    read_gates(run)
    report(str(path))


def run_card(folder: Path) -> Reader:
    return _run(folder, "run.json")


def metrics(folder: Path) -> Reader:
    return _run(folder, "metrics.jsonl")


def gates(folder: Path) -> Reader:
    return _run(folder, "gates.json")


def manifest(folder: Path) -> Reader:
    def read(run: Run) -> None:
        path = run.export / "model.onnx"
        known = manifest_beside(path)
        known.describes(path)
        assert known.gated in (True, False)
        repr((known.source, known.onnx, known.kind))
        _report(run.path)

    return _run(folder, "export/model.onnx.json", read)


def engine_manifest(folder: Path) -> Reader:
    engine = folder / "model.engine"
    engine.write_bytes(b"engine")
    port = {"name": "image", "dtype": "float32", "shape": [1, 3, 64, 128]}
    values = {"file": engine.name, "sha256": sha256(engine), "kind": "engine", "flavour": "tensorrt", "version": "10.1"}
    values |= {"onnx": {"file": "model.onnx", "sha256": "0"}, "inputs": [port], "outputs": [port], "flags": ["--fp16"]}
    values |= {"profile": {"opt": [1, 3, 64, 128]}, "targets": ["sm86"], "classes": CLASSES, "palette": [[1, 2, 3]] * 3}
    manifest_path(engine).write_text(json.dumps(values | {"preprocess": IMAGENET.to_dict()}))

    def read() -> None:
        card = read_manifest(engine, trust=True)
        if card is not None:
            card.rebuild(engine)

    return Reader(manifest_path(engine), read, nested=True)


def golden(folder: Path) -> Reader:
    path = _onnx(folder / "model.onnx")
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    logits = np.random.default_rng(1).standard_normal((3, 16, 24)).astype(np.float32)
    masks = logits.argmax(0).astype(np.uint8), logits.argmax(0).astype(np.uint8)
    written = write_golden(path, capture(image, masks, logits, 0.0, GoldenFacts("a", size=(16, 24))))
    return Reader(written, lambda: read_golden(path).needed)


def measurement(folder: Path) -> Reader:
    run = _made_run(folder)
    run.bench.mkdir()
    path = run.bench / "memory-1.json"
    path.write_text(json.dumps({"kind": "memory", "device": "cpu", "size": [64, 128], "rows": [], "protocol": {}}))
    return Reader(path, lambda: newest(run, "memory-*.json", MemoryRecord), nested=True)


def plan(folder: Path) -> Reader:
    path = folder / "plan.json"
    entry = {
        "name": "a",
        "method": "kd",
        "seed": 0,
        "grid": {"T": "4"},
        "baseline": None,
        "config": Config().model_dump(mode="json"),
    }
    failed = {"a": {"error": "x", "final": True}}
    values = {"commands": [["kdc"]], "protocol": {"a": 1}, "teachers": {}, "failed": failed, "runs": []}
    path.write_text(json.dumps(values | {"runs": [entry | {"facts": {"data": "d", "steps": 3}}]}))
    return Reader(path, lambda: Comparison(folder), nested=True)


def statistics(folder: Path) -> Reader:
    path = _onnx(folder / "model.onnx")
    safe_onnx.save_own(onnx.load(path), path)
    images = [np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)]
    collect(path, images, "f").save(folder / "cache.json")

    def read() -> None:
        if (known := Statistics.load(folder / "cache.json", "f")) is not None:
            for histogram in known.tensors.values():
                histogram.magnitudes()

    return Reader(folder / "cache.json", read, nested=True)


READERS = {
    each.__name__: each
    for each in (
        image, jpeg, tiff, mask, palette_mask, safetensors, checkpoint, pth, old_pth, state, onnx_graph, onnx_facts,
        openvino, card, card_values, config, config_values, list_file, run_card, metrics, gates, manifest,
        engine_manifest, golden, measurement, plan, statistics,
    )
}  # fmt: skip
