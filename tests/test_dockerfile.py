"""The image for a GPU, as far as text shows it: it was not built, since that needs Docker and NVIDIA's base image."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
#: instructions with their continued lines joined, comments left out
LINES = re.sub(r"\\\n\s*", "", "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))).splitlines()


def of(instruction: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{instruction} ")]


def test_it_holds_every_room_and_the_gpu_extras() -> None:
    copied = " ".join(of("COPY")).split()
    rooms = [path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("tests", "benchmarks")]
    assert len(rooms) == 4 and set(rooms) | {"pyproject.toml", "cli.py", "__init__.py", "__main__.py"} <= set(copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert all(f'o["{extra}"]' in TEXT and extra in extras for extra in ("gpu", "trt"))
    assert 'o["cpu"]' not in TEXT, "onnxruntime and onnxruntime-gpu lie over each other"


def test_its_requirements_are_those_of_the_project(tmp_path: Path, monkeypatch, capsys) -> None:
    command = next(line for line in of("RUN") if "tomllib" in line)
    monkeypatch.chdir(ROOT)
    exec(command.split("'")[1])
    printed = capsys.readouterr().out.splitlines()
    assert "torch>=2.11" in printed and any(line.startswith("onnxruntime-gpu") for line in printed)


def test_habits() -> None:
    assert of("USER") == ["kdc"] and LINES.index("USER kdc") < LINES.index('ENTRYPOINT ["kdc"]')
    assert all(":" in base and not base.endswith(":latest") for base in of("ARG") if base.startswith("BASE="))
    for run in of("RUN"):
        assert "apt-get install" not in run or (
            "--no-install-recommends" in run and "rm -rf /var/lib/apt/lists" in run and "apt-get update" in run
        )
        assert "pip install" not in run or "--no-cache-dir" in run
        assert "sudo" not in run
    assert not of("ADD")
    assert "Not built" in TEXT
