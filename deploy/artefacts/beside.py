"""Which files belong to an exported file, and which run it belongs to."""

from pathlib import Path

from ...distill.run.folder import Run

#: Suffixes of files that hold a network's weights for torch.
TORCH_FILES = (".safetensors", ".pt", ".pth")
#: Suffixes of TensorRT engines.
ENGINES = (".engine", ".plan")
#: Suffixes of exported files, and of all files that hold a network.
EXPORTED = (".onnx", *ENGINES, ".xml", ".pt2")
MODEL_FILES = (*EXPORTED, *TORCH_FILES)


def owner(path: str | Path) -> Run | None:
    """Return the run whose folder holds ``path``, if any."""
    path = Path(path).resolve()
    for folder in (path, *path.parents):
        if (folder / "run.json").exists():
            return Run(folder)
    return None


def weights_beside(path: Path) -> Path | None:
    """Return the file that holds the weights of an OpenVINO network, None for a file that holds its own."""
    return path.with_suffix(".bin") if path.suffix.lower() == ".xml" else None


def golden_path(artefact: Path) -> Path:
    """Return where the golden image of an exported file is."""
    return artefact.with_name(f"{artefact.name}.golden.npz")


def manifest_path(artefact: Path) -> Path:
    """Return where the manifest of an exported file is."""
    return artefact.with_name(f"{artefact.name}.json")


def remove(file: Path) -> None:
    """Remove an exported file with its weights, manifest and golden image; a missing one is no error."""
    for path in (file, manifest_path(file), golden_path(file), weights_beside(file)):
        if path is not None:
            path.unlink(missing_ok=True)


def artefact_bytes(path: Path) -> int:
    """Return the size of a network on disk: the file, and the weights beside it."""
    weights = weights_beside(path) or path.with_name(f"{path.name}.data")  # the latter is of torch's exporter
    return sum(p.stat().st_size for p in (path, weights) if p.is_file())
