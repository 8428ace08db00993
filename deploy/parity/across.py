"""One ONNX file in every runtime that can open it here, compared with ONNX Runtime on the CPU."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...distill.errors import ExportError, NumbersError, UsageError, WeightsError
from ..runtimes.base import OPENVINO
from ..runtimes.options import RuntimeOptions, is_onnx
from ..runtimes.providers import CPU_EP, ON_GPU
from .chain import Comparison, Outcome
from .gate import gate
from .tolerances import tolerances

if TYPE_CHECKING:
    from ...distill.data import Dataset


def across(
    file: Path,
    dataset: "Dataset",
    *,
    images: int | None = 16,
    options: RuntimeOptions,
    size: tuple[int, int] | None = None,
) -> list[Outcome]:
    """Compare what the other runtimes make of an ONNX file with what ONNX Runtime does; nothing is written.

    Args:
        file: of any maker.
        dataset: what all of them see.
        images: how many; None for all.
        options: what is known of the file; a provider or the device "cuda" says which others are meant.
        size: input height and width, where the file leaves them free.

    Raises:
        UsageError: no ONNX file, which one runtime alone opens.
        ExportError: there is no other runtime here.
        KdcError: ONNX Runtime cannot open it.
    """
    if not is_onnx(file):
        raise UsageError(
            f"{file} is opened by one runtime alone; compare it with what it was made from: kdc parity OTHER {file} "
            "--data NAME|DIR"
        )
    others = list(_others(options))
    if not others:
        raise ExportError(
            f"nothing but ONNX Runtime's CPU can open {file.name} here; another is OpenVINO: pip install "
            "'kdc[openvino]'"
        )

    known, outcomes = options.for_data(dataset), []
    with replace(known, device="cpu", provider=None).open(file, size) as reference:
        limits = tolerances(reference.precision)
        for other in others:
            pair = Comparison(f"{file.name} in {other.provider}", file, str(other.provider))
            try:
                with replace(other, said=known.said).open(file, reference.spec.size) as candidate:
                    outcomes.append(Outcome(pair, gate(reference, candidate, dataset, limits, images=images)))
            except ExportError as error:
                outcomes.append(Outcome(pair, unrun=str(error)))
            except (WeightsError, NumbersError) as error:
                outcomes.append(Outcome(pair, broken=str(error)))
    return outcomes


def _others(options: RuntimeOptions) -> Iterator[RuntimeOptions]:
    """Yield how else the file can be run: as the options say, or in all that is installed."""
    if options.provider not in (None, CPU_EP):
        yield options
        return
    if find_spec("openvino"):
        yield replace(options, device="cpu", provider=OPENVINO)
    if options.device == "cuda":
        import onnxruntime

        for provider in ON_GPU:
            if provider in onnxruntime.get_available_providers():
                yield replace(options, provider=provider)
