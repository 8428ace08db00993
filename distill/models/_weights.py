"""Weights that come from elsewhere: an ImageNet start for a backbone, or everything for a trained network."""

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..preprocess import IMAGENET
from ._backbones import DEEP, Backbone
from ._model import NORMALISATION, SegmentationModel
from ._names import find
from ._tensors import PREFIXES, joined, read_tensors, some, strip
from ._toolboxes import Toolbox, model_name, recognise, renamed


@dataclass
class LoadReport:
    """How a file's tensors fit a network's: ``fitted`` of the network's ``total``, and the names that do not."""

    fitted: int
    total: int
    missing: list[str] = field(default_factory=list)  # the network's, absent in the file
    unexpected: list[str] = field(default_factory=list)  # the file's, unknown to the network
    mismatched: list[str] = field(default_factory=list)  # in both, with other shapes: "name (file 3x3, network 4x4)"
    source: str = ""
    note: str = ""

    def line(self) -> str:
        """Return it as one line for people."""
        if not self.total:
            return self.note
        parts = [f"{self.source}: {self.fitted} of {self.total} tensors fitted"]
        for what, entries in (("missing", self.missing), ("of another shape", self.mismatched)):
            if entries:
                parts.append(f"{len(entries)} {what} ({some(entries)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} of the file's unused ({some(self.unexpected)})")
        return "; ".join([*parts, self.note] if self.note else parts)

    def complete(self, ignore_aux: bool = True) -> bool:
        """Tell whether every tensor of the network was loaded and the file holds no others."""
        odd = [*self.missing, *self.unexpected, *self.mismatched]
        return not [name for name in odd if not (ignore_aux and name.startswith("aux_head."))]


def load_backbone(model: SegmentationModel, source: str | Path) -> LoadReport:
    """Start the backbone from ImageNet: ``source`` is "imagenet" (timm's, from a cache or the network) or a file.

    Names of timm and torchvision are recognised, with or without wrappers' prefixes. What fits is loaded; a stem of 4
    channels takes the 3 of an image and keeps its fourth. Where no ImageNet weights are available the backbone keeps
    its random weights, and the report says why.

    Raises:
        WeightsError: the file cannot be read, or nothing in it fits.
    """
    name = model.name.split("-")[1]
    kind = find(model.name)[1]
    path, label = Path(source), Path(source).name
    if str(source) == "imagenet":
        file, reason = _imagenet_file(kind.imagenet) if kind.imagenet else (None, _no_weights(name, kind))
        if file is None:
            return LoadReport(0, 0, source="random", note=f"{name} starts from random weights: {reason}")
        path, label = file, f"ImageNet weights {kind.imagenet}"

    tensors, several = read_tensors(path)
    tensors = strip(_known(tensors)[0], (*PREFIXES, "backbone.", "encoder."))
    tensors = {_timm_name(key): x for key, x in tensors.items()}
    own = model.backbone.state_dict()
    tensors, note = _shared_stem(own, tensors, keep=True)
    note = joined(several, note)
    report, fitting = _match(own, tensors, label)
    if not report.fitted:
        raise WeightsError(
            f"{label}: none of its {len(tensors)} tensors fits any of the {report.total} of {name} "
            f"({kind.timm}); it holds {some(tensors)}, accepted are names of timm or torchvision such as "
            f"{some(report.missing or report.mismatched)}"
        )

    if _deep_without_weights(kind) and not report.complete():
        note = joined(note, f"{name}v1b, with the 7x7 stem, takes all of the ordinary ImageNet weights")
    elif replace(model.preprocess, bits=None) != IMAGENET:
        note = joined(note, "the model's input normalisation is not ImageNet's, which such weights expect")
    report.note = note
    _copy(model.backbone, fitting)
    return report


def load_full(model: SegmentationModel, path: str | Path) -> LoadReport:
    """Load a trained network; input normalisation that the file holds comes along. An aux head may be missing.

    A network of 3 input channels takes a file of 4 without the fourth: a label-assisted student, which its own code
    gives zeros there, computes the same.

    Raises:
        WeightsError: the file cannot be read, has other classes, or is not of exactly this network. The model is
            untouched then.
    """
    label = Path(path).name
    tensors, note = read_tensors(path)
    tensors, toolbox, dropped = _known(tensors)
    own = model.state_dict()
    tensors, stem = _shared_stem(own, tensors, keep=False)
    note = joined(note, dropped, stem)
    report, fitting = _match(own, tensors, label)

    score = "head.scorer.classifier.weight"
    if score in tensors and tensors[score].shape[0] != model.num_classes:
        raise WeightsError(
            f"{label} tells {tensors[score].shape[0]} classes apart, {model.name} is to tell {model.num_classes}; "
            "give the weights of a network trained on these classes"
        )
    if toolbox and not report.complete():
        raise WeightsError(_foreign(label, toolbox, tensors, model, report))
    if not report.complete():
        raise WeightsError(
            f"{report.line()}; {model.name} needs all of its own and nothing else: give the architecture the file was "
            "trained with (for an ImageNet start, train with it; a teacher needs trained weights)"
        )

    if toolbox and toolbox.arch:
        model.set_align_corners(toolbox.align_corners)
        model.set_preprocess(toolbox.preprocess)
        order = "BGR" if toolbox.preprocess.order == "bgr" else "RGB"
        corners = "" if toolbox.align_corners else ", scores enlarged without aligned corners"
        note = joined(note, f"{toolbox.name}, renamed: {order} as its code prepares images{corners}")
    elif "mean" not in fitting:
        note = joined(note, "no input normalisation in the file: the model's own is used")
    report.note = note
    _copy(model, fitting)
    return report


def _known(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Toolbox | None, str]:
    """Return tensors without prefixes and under kdc's names, whose they are, and a note of those that are unused."""
    tensors = strip(tensors, PREFIXES)
    toolbox = recognise(tensors)
    if toolbox is None or toolbox.arch is None:
        return tensors, toolbox, ""
    tensors, unused = renamed(toolbox, tensors, _timm_name)
    return tensors, toolbox, f"{len(unused)} that the network does not use left out ({some(unused)})" if unused else ""


def _foreign(
    label: str, toolbox: Toolbox, tensors: dict[str, Tensor], model: SegmentationModel, report: LoadReport
) -> str:
    """Say whose a checkpoint is that does not fit a model, and which model it is, if any."""
    if toolbox.arch is None:
        start = " or, as a backbone's start, --student-weights" if "classifier of images" in toolbox.name else ""
        return (
            f"{label} is {toolbox.name}: no network of kdc is the same, so it cannot be loaded as {model.name}; take a "
            f"file of {model.name}, export that network to ONNX in its own toolbox (kdc eval FILE.onnx){start}"
        )
    name = model_name(toolbox.arch, tensors)
    if name and name != model.name:
        return f"{label} is {toolbox.name}, which is {name} here, not {model.name}: name that network"
    odd = [*report.mismatched, *report.missing, *report.unexpected]
    return (
        f"{label} is {toolbox.name}, but of other sizes than {model.name}'s, so it cannot be loaded as that: "
        f"{some(odd)}"
    )


def _copy(module: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    # load_state_dict casts (fp16 to fp32) and runs the hook that adopts the normalisation
    module.load_state_dict(tensors, strict=False)


def _match(
    own: Mapping[str, Tensor], others: Mapping[str, Tensor], source: str
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Compare by name and shape; the normalisation and batch norm's counters fit or not without being counted."""
    fitting = {key: x for key, x in others.items() if key in own and own[key].shape == x.shape}
    mine, its = ([key for key in names if _counts(key)] for names in (own, others))
    report = LoadReport(
        fitted=sum(key in fitting for key in mine),
        total=len(mine),
        missing=[key for key in mine if key not in others],
        unexpected=[key for key in its if key not in own],
        mismatched=[
            f"{key} (file {_shape(others[key])}, network {_shape(own[key])})"
            for key in mine
            if key in others and key not in fitting
        ],
        source=source,
    )
    return report, fitting


def _shared_stem(own: Mapping[str, Tensor], others: dict[str, Tensor], keep: bool) -> tuple[dict[str, Tensor], str]:
    """Fit a file's stem of 3 input channels to a network's of 4, or of 4 to 3, and describe it in a note.

    With ``keep`` a network of 4 channels takes a file of 3 and keeps its own fourth.
    """
    name, mine = next((name, x) for name, x in own.items() if x.ndim == 4 and name not in NORMALISATION)
    its = others.get(name)
    if its is None or its.ndim != 4 or (its.shape[0], its.shape[2:]) != (mine.shape[0], mine.shape[2:]):
        return others, ""
    channels = (its.shape[1], mine.shape[1])
    if channels == (4, 3):
        return {**others, name: its[:, :3]}, "of the stem's 4 input channels the first 3 were taken"
    if channels == (3, 4) and keep:
        both = torch.cat([its.to(mine), mine[:, 3:]], 1)
        return {**others, name: both}, "the stem's fourth input channel keeps its random weights"
    return others, ""


def _counts(name: str) -> bool:
    return name not in NORMALISATION and not name.endswith("num_batches_tracked")


# torchvision counts MobileNetV2's blocks through; timm groups them by stage
_BLOCKS = [f"blocks.{stage}.{i}" for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(count)]
_FIRST = {"conv.0.0": "conv_dw", "conv.0.1": "bn1", "conv.1": "conv_pw", "conv.2": "bn2"}
_OTHER = {"conv.0.0": "conv_pw", "conv.0.1": "bn1", "conv.1.0": "conv_dw", "conv.1.1": "bn2"}
_OTHER |= {"conv.2": "conv_pwl", "conv.3": "bn3"}
_ENDS = {0: {"0": "conv_stem", "1": "bn1"}, 18: {"0": "conv_head", "1": "bn2"}}


def _timm_name(name: str) -> str:
    """Turn torchvision's names for MobileNetV2 into timm's; its ResNets are called alike, so other names stay."""
    match = re.fullmatch(r"features\.(\d+)\.(.+)\.(\w+)", name)
    if not match:
        return name
    index, place, leaf = int(match[1]), match[2], match[3]
    if index in _ENDS:
        module = _ENDS[index].get(place)
    else:
        part = (_FIRST if index == 1 else _OTHER).get(place)
        module = f"{_BLOCKS[index - 1]}.{part}" if part and index <= len(_BLOCKS) else None
    return f"{module}.{leaf}" if module else name


def _deep_without_weights(kind: Backbone) -> bool:
    return kind.stem is DEEP and kind.imagenet is None


def _no_weights(name: str, kind: Backbone) -> str:
    if _deep_without_weights(kind):
        return (
            f"no ImageNet weights exist for the papers' deep stem below r50; {name}v1b (7x7 stem) takes ordinary ones"
        )
    return "timm has no ImageNet weights for it"


def _imagenet_file(tag: str) -> tuple[Path | None, str]:
    """Find timm's weights in a cache of huggingface_hub or torch, else fetch them: the file, or None and why not."""
    import huggingface_hub
    import timm
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    # OSError, and whatever the hub's own network library (requests or httpx) raises
    failures: Any = (OSError, *HfHubHTTPError.__bases__)
    config: Any = timm.get_pretrained_cfg(tag)
    cached = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached), ""
    older = Path(torch.hub.get_dir(), "checkpoints", Path(config.url).name)
    if older.is_file():
        return older, ""

    why = f"{tag} is in no cache and "
    if constants.HF_HUB_OFFLINE:
        return None, f"{why}HF_HUB_OFFLINE is set"
    host = urllib.parse.urlparse(constants.ENDPOINT).hostname or ""
    try:
        # once and shortly, by the way that the download goes: itself it tries a dead network or proxy for a minute
        url = huggingface_hub.hf_hub_url(config.hf_hub_id, "model.safetensors")
        huggingface_metadata(url, timeout=5)
        return Path(huggingface_hub.hf_hub_download(config.hf_hub_id, "model.safetensors")), ""
    except failures as error:
        return None, f"{why}{host} cannot be reached ({type(error).__name__})"


def huggingface_metadata(url: str, *, timeout: float) -> None:
    """Ask the hub about a file, once; whatever its network library raises comes out."""
    import huggingface_hub

    huggingface_hub.get_hf_file_metadata(url, timeout=timeout)


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape)) or "scalar"
