"""A network that torch's AOTInductor compiled ahead of time to one package (.pt2), run without tracing anything."""

import json
import logging
import platform
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...distill import console
from ...distill.errors import ExportError, UsageError, WeightsError, one_line, reading
from ...distill.lfs import pointer_at
from ...distill.run.files import versions
from ..artefacts.trust import vouched
from ..machine.passport import cpu_features
from .answer import Port
from .base import Runtime
from .file_info import FileInfo, file_info, metadata_of, spec_of
from .said import NOTHING, Said

#: largest metadata of a package of kdc's, in bytes
_LONGEST = 1 << 20
#: what AOTInductor calls the CPU features of its code -> what the system calls them
_FEATURES = {"AVX2": "avx2", "AVX512": "avx512f", "AVX512_VNNI": "avx512_vnni"}


@dataclass(frozen=True)
class Target:
    """What a package was compiled for, as AOTInductor wrote it down; this machine where it did not."""

    device: str
    platform: str
    machine: str
    #: CPU features that its code uses
    features: frozenset[str]
    tf32: bool

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Target":
        """Read the metadata of a package."""
        return cls(
            values.get("AOTI_DEVICE_KEY", "cpu"),
            values.get("AOTI_PLATFORM", sys.platform),
            values.get("AOTI_MACHINE", platform.machine()),
            frozenset(_FEATURES[word] for word in values.get("AOTI_CPU_ISA", "").split() if word in _FEATURES),
            values.get("kdc.tf32") == "true",
        )


def read_package(path: Path) -> FileInfo:
    """Read a package's contract without running anything of it.

    Raises:
        WeightsError: the file is missing, broken, or not written by ``kdc export aoti``.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[FileInfo, Target]:
    if lfs := pointer_at(path):
        raise WeightsError(f"{path} {lfs}")
    cure = "it is not an AOTInductor package or is cut off; export it again"
    with reading(path, WeightsError, cure), zipfile.ZipFile(path) as package:
        entries = [each for each in package.infolist() if each.filename.endswith("_metadata.json")]
        files = [each for each in entries if each.file_size < _LONGEST]
        values = json.loads(package.read(files[0])) if files else {}

    if not isinstance(values, dict):
        raise WeightsError(f"{path} was not written by kdc: its metadata are no names and values")
    metadata = metadata_of((str(key), str(value)) for key, value in values.items())
    try:
        input_port, output_port = (Port(p["name"], p["dtype"], tuple(p["shape"])) for p in metadata.pop("kdc.ports"))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} was not written by kdc: its input and output are not known") from error
    precision = str(metadata.get("kdc.precision", "fp32"))
    return file_info(path, [input_port], [output_port], precision, metadata), Target.from_dict(values)


class AotiRuntime(Runtime):
    """A package of AOTInductor, on the device that it was compiled for."""

    name = "aoti"

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        size: tuple[int, int] | None = None,
        threads: int | None = None,
        trust: bool = False,
        said: Said = NOTHING,
    ) -> None:
        """See ``open_runtime``."""
        manifest = vouched(path, "aoti", trust=trust)
        info, target = _read(path)
        self.info, self.source, self.device, self.precision = info, path, device, info.precision
        self.spec = spec_of(info, path, size, said)
        _check_target(path, target, device, manifest.torch)

        import torch

        from .torch_runtime import need_device

        need_device(device)
        if threads:
            torch.set_num_threads(threads)
        # it looks for CUDA's compiler, which it does not need to run, and complains where it finds no GPU
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        try:
            self._run: Callable[[Any], Any] = torch._inductor.aoti_load_package(str(path))
        except RuntimeError as error:
            raise ExportError(f"{path} cannot be loaded by torch {torch.__version__}: {one_line(error)}") from error
        self.provider = f"AOTInductor {device}"
        self._stream = None
        if device == "cuda":
            self.tf32 = target.tf32
            self._stream = torch.cuda.Stream()  # it works on the current one

    def _infer(self, x: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            out = self._run(torch.from_numpy(x).to(self.device)).contiguous().cpu().numpy()
            return self.spec.answer.read(out, self.spec.size)

    def staged(self, x: np.ndarray) -> Callable[[], float]:
        """Time the network alone, by the wall clock from the call to the end of its stream."""
        self.check(x)
        import torch

        from .torch_runtime import timed_by_clock

        return timed_by_clock(self._run, torch.from_numpy(x).to(self.device), self._stream)

    def timed(self, x: np.ndarray) -> Callable[[], dict[str, float]] | None:
        """Time transfers and network apart by CUDA events, from and to pinned memory."""
        self.check(x)
        if self._stream is None:
            return None
        import torch

        from .torch_runtime import timed_on_gpu

        return timed_on_gpu(self._run, torch.from_numpy(x).pin_memory(), self._stream)

    def close(self) -> None:
        """Drop the package."""
        del self._run


def _check_target(path: Path, target: Target, device: str, torch_version: str | None) -> None:
    """Refuse code for another device, system, CPU or torch: it would crash, not complain."""
    if target.device != device:
        raise UsageError(f"{path} was compiled for {target.device}: open it with --device {target.device}")

    system, here = f"{target.platform} {target.machine}", f"{sys.platform} {platform.machine()}"
    again = "compile it here: kdc export aoti RUN"
    if here != system:
        raise ExportError(f"{path} was compiled for {system}, this is {here}; {again}")
    known = cpu_features()  # none where the system does not tell
    if known and (lacking := sorted(target.features - set(known))):
        raise ExportError(f"{path} uses {', '.join(lacking)}, which this CPU lacks; {again}")

    installed = versions()["torch"]
    if torch_version is None:
        console.warn(f"{path.name} does not say which torch compiled it; another one may crash on it")
    elif torch_version != installed:
        raise ExportError(f"{path} was compiled with torch {torch_version}, this is torch {installed}; {again}")
