"""What a latency measurement compares: runs and files become backends of one input size and batch."""

from collections.abc import Sequence
from pathlib import Path

from ..distill.errors import UsageError, WeightsError
from ..distill.run import Run, find_run
from .runtime import ENGINES, TORCH_FILES, export_size, owner

Source = str | Path | Run


def expand(sources: Sequence[Source] | None, device: str) -> tuple[list[Path | Run], list[dict[str, str]], Run | None]:
    """Turn runs into backends; return them, what cannot be measured, and the run that keeps the record."""
    chosen: list[Path | Run] = []
    missing: list[dict[str, str]] = []
    home: Run | None = None
    for source in sources or [find_run(None)]:
        suffix = "" if isinstance(source, Run) else Path(source).suffix.lower()
        if suffix in ENGINES:
            missing.append(_engine(Path(str(source)), device))
        elif suffix == ".onnx" or (suffix in TORCH_FILES and not isinstance(source, Run)):
            path = Path(str(source))
            if not path.is_file():
                raise WeightsError(f"{path} does not exist")
            chosen.append(path)
            home = home or owner(path)
        else:
            run = source if isinstance(source, Run) else find_run(source)
            home = home or run
            files = sorted(run.export.glob("*.onnx"), key=lambda p: (_rank(p), len(p.name), p.name))
            chosen += [run, *files]
            if not files:
                missing.append({"file": "export/*.onnx", "why": f"not exported yet: kdc export onnx {run.path.name}"})
            missing += [
                _engine(p, device)
                for p in sorted(run.export.iterdir() if run.export.exists() else ())
                if p.suffix in ENGINES
            ]
    # a run and its own file may both be named
    unique = {(s.path if isinstance(s, Run) else s).resolve(): s for s in reversed(chosen)}
    return [s for s in chosen if unique.get((s.path if isinstance(s, Run) else s).resolve()) is s], missing, home


def _rank(path: Path) -> int:
    return 2 if "int8" in path.name else 1 if "fp16" in path.name else 0


def _engine(path: Path, device: str) -> dict[str, str]:
    why = (
        "not measured: needs a GPU"
        if device == "cpu"
        else "not measured: this version of kdc times torch and ONNX Runtime"
    )
    return {"file": path.name, "why": why}


def of_batch(chosen: list[Path | Run], batch: int) -> tuple[list[Path | Run], list[dict[str, str]]]:
    """Part what takes ``batch`` images at once from the ONNX files made for another batch, and say why."""
    from .ort_runtime import read_info

    made_for = {source: read_info(source).shape[0] for source in chosen if isinstance(source, Path) and is_onnx(source)}
    misfits = {source: own for source, own in made_for.items() if own not in (None, batch)}
    why = "not measured: made for a batch of {}; kdc export onnx --dynamic-batch leaves it free"
    missing = [{"file": source.name, "why": why.format(own)} for source, own in misfits.items()]
    return [source for source in chosen if source not in misfits], missing


def agree(chosen: list[Path | Run], size: tuple[int, int] | None) -> tuple[tuple[int, int], str]:
    """Find the input size and the head that all backends are measured with."""
    sizes: dict[tuple[int, int], str] = {}
    heads: list[str] = []
    for source in chosen:
        if is_onnx(source):
            from .ort_runtime import read_info

            assert isinstance(source, Path)
            info = read_info(source)
            heads.append(info.head)
            if info.size[0] and info.size[1]:
                sizes.setdefault((info.size[0], info.size[1]), source.name)
    if size is None and len(sizes) > 1:
        each = ", ".join(f"{name} {h}x{w}" for (h, w), name in sizes.items())
        raise UsageError(f"the files are made for different sizes ({each}); name files of one size")
    if size is None and sizes:
        size = next(iter(sizes))
    for source in chosen if size is None else ():
        run = source if isinstance(source, Run) else owner(source)
        if run is not None and (run.card.get("data") or {}).get("size"):
            height, width = run.card["data"]["size"]
            size = export_size((height, width), run.card["student"]["output_stride"])
            break
    if size is None:
        raise UsageError("no input size is known for these files; name it: --size HxW")
    return size, heads[0] if heads else "logits"


def is_onnx(source: Path | Run) -> bool:
    """Tell an ONNX file from a checkpoint and a run."""
    return isinstance(source, Path) and source.suffix.lower() == ".onnx"


def row_names(chosen: list[Path | Run]) -> list[str]:
    """Name the rows as shortly as they can be told apart."""
    short = ["torch" if isinstance(source, Run) or not is_onnx(source) else source.name for source in chosen]
    names = []
    for source, label in zip(chosen, short, strict=True):
        path = source.path if isinstance(source, Run) else source
        run = source if isinstance(source, Run) else owner(source)
        names.append(label if short.count(label) == 1 else f"{label} of {run.path.name if run else path}")
    return names
