"""The one road of every file that is made: write, gate, keep."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...distill import console
from ...distill.errors import NumbersError
from ...distill.run.files import sha256, write_json
from ...distill.run.folder import Run
from ..artefacts.beside import ENGINES, manifest_path, remove
from ..artefacts.ledger import discard, stage_of, write_gate
from ..runtimes.open import open_runtime
from .gate import gate
from .golden import write_golden
from .result import GateResult
from .tolerances import Tolerances, tolerances

if TYPE_CHECKING:
    from ...distill.data import Dataset


def proved(
    run: Run,
    path: Path,
    reference: Path,
    dataset: "Dataset",
    limits: Tolerances,
    cure: str,
    *,
    images: int | None,
    device: str = "cpu",
    **facts: Any,
) -> tuple[GateResult, dict[str, Any]]:
    """Run a new file beside what it was made from, and do what ``judge`` does; return also what really ran.

    Raises:
        NumbersError: the gate failed. Whatever is raised, the file is gone.
    """
    try:
        with open_runtime(path, device=device) as candidate:
            with open_runtime(reference, size=candidate.spec.size) as trusted:
                result = gate(trusted, candidate, dataset, limits, images=images)
            ran = {"provider": candidate.provider, "precision": candidate.precision}
            ran |= {"layers": layers} if (layers := getattr(candidate, "layers", None)) else {}
    except BaseException:  # Ctrl-C too: what is not proven does not stay
        discard(run, [path])
        raise
    return judge(run, stage_of(path), path, result, cure, **facts), ran


def judge(run: "Run | Path", stage: str, file: Path, result: GateResult, cure: str, **facts: Any) -> GateResult:
    """Enter the result for ``file`` and say it: one that passed gets its golden image, one that failed is removed.

    ``facts`` stand in the ledger, too.

    Raises:
        NumbersError: the gate failed; the message says ``cure``.
    """
    result.sha256 = sha256(file)
    write_gate(run, stage, result, file=file.name, **facts)
    if not result.passed:
        remove(file)
        raise NumbersError(f"{file.name} did not pass its gate and was removed: {'; '.join(result.reasons)}; {cure}")
    console.say(f"gate {stage}: passed, {result.line()}")
    if result.golden is not None:
        write_golden(file, result.golden)
    return result


def prove(
    run: Run,
    path: Path,
    reference: Path,
    manifest: dict[str, Any],
    *,
    images: int | None = 16,
    agreement: float | None = None,
    cure: str,
) -> dict[str, Any]:
    """Run a new file on its own runtime beside ``reference``, judge it, and write its manifest.

    Returns:
        The manifest, with ``gate`` and what really ``ran`` added.

    Raises:
        NumbersError: the gate failed. Whatever is raised, the file is gone.
    """
    device = "cuda" if path.suffix in ENGINES else manifest.get("device", "cpu")
    try:
        limits = tolerances(manifest["precision"], run, agreement=agreement)
        dataset = run.open_data(run.config.data.split)
    except BaseException:
        discard(run, [path])
        raise
    result, ran = proved(run, path, reference, dataset, limits, cure, images=images, device=device)
    manifest |= {"ran": ran, "gate": result.to_dict()}
    write_json(manifest_path(path), manifest)
    run.remember_command()
    run.seal()
    return manifest
