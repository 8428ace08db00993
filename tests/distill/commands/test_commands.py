"""The commands as a user types them: what they print, which files they leave, what they say to a wrong line."""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdc import cli
from kdc.distill import console, job, models
from kdc.distill.run.checkpoint import save_state, save_student
from kdc.distill.run.folder import Run

DATA = "--size 32x64 --crop 32x64 --batch 2 --set data.count=12 --set data.val_count=4 --set train.threads=1"
TINY = f"{DATA} --iters 2 --student pspnet-mv2_035"


@dataclass
class Done:
    """What a command left on its way out."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The only line of stdout."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


def kdc(line: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    console.json_mode = False
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(line.split())
    console.json_mode = False
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Done]]:
    """Fit a teacher, distil it, evaluate, export and measure, in one folder, with nothing but defaults in between."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("work")
        patch.chdir(place)
        patch.setenv("OMP_NUM_THREADS", "1")
        lines = {
            "train": f"train {TINY} --json",
            "teacher": f"train {DATA} --iters 2 --student pspnet-mv2_050 --seed 1",
            "distill": f"distill {TINY} --teacher pspnet-mv2_050 --method kt --set model.teacher_check=false --json",
            "eval": "eval --json --limit 2",
            "onnx": "export onnx --json",
            "latency": "bench latency --seconds 0.1 --rounds 2 --threads 1 --json",
        }
        yield {name: kdc(line) for name, line in lines.items()}


@pytest.fixture
def place(chain: dict[str, Done], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the chain ran, as the current one."""
    folder = Path(chain["distill"].json["run"]).parents[1]
    monkeypatch.chdir(folder)
    return folder


def test_the_whole_job_leaves_its_files(chain: dict[str, Done], place: Path) -> None:
    for name, done in chain.items():
        assert done.code == 0, f"{name}: {done.err}"
    run = Path(chain["distill"].json["run"])
    assert (place / "runs" / "last").resolve() == run
    files = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    assert files >= {
        "run.json", "config.yaml", "metrics.jsonl", "timing.jsonl", "gates.json", "checkpoints/best.safetensors",
        "checkpoints/best.safetensors.json", "checkpoints/last.safetensors", "checkpoints/last.json",
        "export/model.onnx", "export/model.onnx.json",
    }  # fmt: skip
    assert any(name.startswith("bench/latency") for name in files)
    assert not [name for name in files if "/." in name]  # nothing half written is left


def test_json_is_the_only_line_of_stdout_and_messages_go_to_stderr(chain: dict[str, Done], place: Path) -> None:
    train, distilled = chain["train"].json, chain["distill"].json
    assert train["status"] == distilled["status"] == "finished" and 0 <= distilled["best"] <= 1
    assert distilled["baseline"] == train["run"]
    assert distilled["teacher"]["name"] == "pspnet-mv2_050" and train["teacher"] is None
    assert "BUILT-IN GENERATED SCENES" in chain["distill"].err and "2/2" in chain["distill"].err
    assert chain["eval"].json["scores"]["images"] == 2
    assert chain["onnx"].json["files"][0]["gate"]["passed"] is True
    assert {row["name"] for row in chain["latency"].json["backends"]} >= {"torch", "model.onnx"}
    assert "BUILT-IN GENERATED SCENES" in chain["teacher"].out and chain["teacher"].err == ""


def test_runs_ls_info_and_rm(chain: dict[str, Done], place: Path, tmp_path: Path) -> None:
    rows = kdc("runs ls --json").json["runs"]
    assert [row["kind"] for row in rows] == ["train", "train", "distill"]
    assert kdc("runs info --json").json["path"] == chain["distill"].json["run"]
    assert "pspnet-mv2_035" in kdc(f"runs info {rows[0]['name']}").out

    shutil.copytree(place / "runs", tmp_path / "runs", symlinks=True)
    with contextlib.chdir(tmp_path):
        assert kdc(f"runs rm {rows[2]['name']} --yes").code == 0
        assert [row["name"] for row in kdc("runs ls --json").json["runs"]] == [row["name"] for row in rows[:2]]
        assert kdc("runs info --json").json["path"] == str(
            tmp_path / "runs" / rows[1]["name"]
        )  # the newest that is left
        held = Run(tmp_path / "runs" / rows[0]["name"])
        held.lock()
        assert kdc(f"runs rm {rows[0]['name']} --yes").code == 8 and held.path.exists()
        held.unlock()
        for name in (rows[0]["name"], "last"):
            assert kdc(f"runs rm {name} --yes").code == 0
        assert "no runs" in kdc("runs ls").out and kdc("runs ls --json").json == {"runs": []}
        assert kdc("runs info").code == 2


def test_a_dry_run_prints_plan_and_memory_and_writes_nothing(tmp_path: Path) -> None:
    line = f"distill {TINY} --teacher pspnet-mv2_050 --dry-run"
    done = kdc(line)
    assert done.code == 0 and "a fit of 120 steps that comes first" in done.out and "memory" in done.out
    plan = kdc(f"{line} --json").json
    assert plan["student"] == {"name": "pspnet-mv2_035", "params": 522_699}
    assert plan["method"]["terms"].keys() == {"kt.kd", "kt.lt", "kt.ft", "kt.tri"}
    assert (plan["data"]["train"], plan["data"]["val"], plan["iters"], plan["images_per_device"]) == (12, 4, 2, 2)
    memory = plan["memory_mib"]
    assert memory["total"] == memory["weights"] + memory["activations"] and memory["weights"] > 0
    larger = kdc(f"{line} --batch 32 --json").json["memory_mib"]
    assert larger["activations"] > 8 * memory["activations"] and larger["weights"] == memory["weights"]
    assert not list(tmp_path.iterdir())


def test_a_dry_run_counts_the_teacher_that_is_named(chain: dict[str, Done], place: Path) -> None:
    run = Path(chain["teacher"].out.split("run ", 1)[1].splitlines()[0])
    alone = kdc(f"train {TINY} --dry-run --json").json["memory_mib"]["weights"]
    for name in (run.name, str(run), str(run / "checkpoints" / "best.safetensors")):
        plan = kdc(f"distill {TINY} --teacher {name} --dry-run --json").json
        assert plan["teacher"]["name"] == "pspnet-mv2_050" and plan["memory_mib"]["weights"] > alone


@pytest.mark.parametrize(
    ("flags", "terms"),
    [
        ("", {"kt.kd", "kt.lt", "kt.ft", "kt.tri"}),
        ("--method cwd", {"cwd.logits", "cwd.feature"}),
        ("--set method.name=pad", {"pad.ad"}),
        ("--config c.yaml", {"kd.kd"}),
        ("--config dotted.yaml", {"kd.kd"}),
        ("--config c.yaml --method cad", {"cad.ad"}),
        ("--config c.yaml --set method.name=lad", {"lad.ad"}),
        ("--preset lad", {"lad.ad", "kd.kd"}),
        ("--preset lad --method kt", {"kt.kd", "kt.lt", "kt.ft", "kt.tri"}),
        ("--preset kt --config c.yaml", {"kd.kd"}),
        ("--config run.yaml --set method.kt.tri=0", {"kt.kd", "kt.lt", "kt.ft"}),
        ("--method none", set()),
    ],
)
@pytest.mark.process
def test_which_method_wins(flags: str, terms: set[str]) -> None:
    Path("c.yaml").write_text("method: {name: kd}\n")
    Path("dotted.yaml").write_text("method.name: kd\ndata.source: builtin\n")
    Path("run.yaml").write_text("method: {name: kt}\n")
    plan = kdc(f"distill {TINY} --teacher pspnet-mv2_050 {flags} --dry-run --json").json
    assert plan["method"]["terms"].keys() == terms


def test_train_never_has_a_method() -> None:
    Path("c.yaml").write_text(yaml.safe_dump({"method": {"name": "kt", "kt": {"T": 2}}, "model": {"teacher": "r101"}}))
    for flags in ("--config c.yaml", "--preset lad", "--set method.name=kd"):
        plan = kdc(f"train {TINY} {flags} --dry-run --json").json
        assert plan["method"]["terms"] == {} and plan["teacher"] is None


def test_the_data_may_be_named_in_each_layer() -> None:
    loud = "none named"
    Path("c.yaml").write_text("data: {source: builtin}\n")
    assert loud in kdc(f"train {TINY} --dry-run").out
    for flags in ("--data builtin", "--set data.source=builtin", "--config c.yaml"):
        assert loud not in kdc(f"train {TINY} {flags} --dry-run").out


def test_at_names_the_feature() -> None:
    line = f"distill {TINY} --teacher pspnet-mv2_050 --method lad+kd --dry-run --json --at"
    assert any("112 -> 160" in note or "112" in note for note in kdc(f"{line} bb").json["notes"])
    assert "has only" in kdc(f"{line} nose").err


def test_lists_and_infos() -> None:
    methods = kdc("methods ls --json").json["methods"]
    assert {row["name"] for row in methods} >= {"kd", "cwd", "kt", "lad", "cad", "pad"}
    assert "tuning_point" in kdc("methods info kt").out and kdc("methods info kt --json").json["terms"]["lt"] == 1
    assert {row["name"] for row in kdc("models ls --json").json["models"]} >= {"deeplabv3-r101", "pspnet-mv2"}
    info = kdc("models info deeplabv3-r18 --classes 11 --size 64x128 --json").json
    assert (info["params"], info["params_without_aux"]) == (13_606_422, 13_458_123)
    assert info["flops"] == 2 * info["macs"] > info["macs"] > info["macs_without_aux"] > 0
    assert "13,606,422" in kdc("models info r18 --classes 11 --size 64x128").out
    assert {row["name"] for row in kdc("data ls --json").json["data"]} == {"builtin", "camvid", "folder"}
    builtin = kdc("data info builtin --json").json
    assert builtin["num_classes"] == 11 and builtin["splits"]["val"] == {"images": 60, "labelled": True}
    check = kdc("data check builtin --set data.count=2 --set data.val_count=1 --set data.size=32x64 --json").json
    assert check["problems"] == [] and len(check["histogram"]) == 11


WRONG = [
    ("distill {T} --method kz", 2, "no method 'kz'; did you mean 'kt'"),
    ("distill {T} --method kt+kz", 2, "no method 'kz'"),
    ("distill {T} --set method.kt.tempo=4", 2, "method kt has no 'tempo'"),
    ("distill {T} --set method.kd.T=4", 2, "the method is 'kt'"),
    ("distill {T} --set method.kt.T=hot", 2, "linear(a,b,n)"),
    ("distill {T} --method kt --at bb", 2, "--at names the feature of"),
    ("distill {TINY}", 2, "--teacher r101"),
    ("distill {TINY} --teacher r99", 2, "no model 'r99'"),
    ("distill {TINY} --teacher no/where", 2, "no run 'no/where'"),
    ("distill {TINY} --teacher gone.safetensors", 4, "gone.safetensors does not exist"),
    ("distill {TINY} --teacher text.safetensors", 4, "broken or cut off"),
    ("distill {TINY} --teacher foreign.pth", 2, "--teacher-weights foreign.pth"),
    ("distill {T} --teacher-weights gone.pth", 4, "gone.pth: no such file"),
    ("distill {T} --teacher-weights text.pth", 4, "text.pth cannot be read (KeyError 101); accepted are"),
    ("distill {T} --teacher-weights foreign.pth", 4, "foreign.pth"),
    ("distill {TINY} --teacher seven.safetensors", 4, "knows 7 classes"),
    ("distill {T} --preset kz", 2, "no preset 'kz'; did you mean 'kt'"),
    ("train {TINY} --student r19", 2, "did you mean 'r18'"),
    ("train {TINY} --student r18 --arch deeplabv4", 2, "deeplabv4"),
    ("train {TINY} --student-weights gone.pth", 4, "gone.pth: no such file"),
    ("train {TINY} --init gone", 2, "no run 'gone'"),
    ("train {TINY} --init seven.safetensors", 4, "for 7 classes, the student pspnet-mv2_035 for 11"),
    ("train {TINY} --init text.safetensors", 4, "broken or cut off"),
    ("train {TINY} --data gone", 3, "no dataset or directory called 'gone'"),
    ("train {TINY} --data bultin", 3, "did you mean 'builtin'"),
    ("train --data empty", 3, "no images found"),
    ("train {TINY} --split vla", 3, "no split 'vla'"),
    ("train {TINY} --classes 3", 2, "data.classes is not an option of builtin"),
    ("train {TINY} --set data.count=many", 2, "data.count"),
    ("train {TINY} --set data.count=0", 2, "data.count"),
    ("train {TINY} --size 32", 2, "size '32' is not HEIGHTxWIDTH"),
    ("train {TINY} --size 8x8", 2, "at least 32"),
    ("train {TINY} --crop 32-64", 2, "size '32-64' is not HEIGHTxWIDTH"),
    ("train {TINY} --device gpu", 2, "'auto', 'cpu' or 'cuda'"),
    ("train {TINY} --precision 8", 2, "'bf16-mixed'"),
    ("train {TINY} --batch 3 --devices 2", 2, "take a multiple of 2"),
    ("train {TINY} --iters -1", 2, "train.iters=-1"),
    ("train {TINY} --lr 0", 2, "train.lr=0"),
    ("train {TINY} --workers -1", 2, "train.workers=-1"),
    ("train {TINY} --set foo", 2, "is not key=value"),
    ("train {TINY} --set train.itres=3", 2, "did you mean 'train.iters'"),
    ("train {TINY} --config gone.yaml", 2, "cannot read gone.yaml"),
    ("train {TINY} --config text.pth", 2, "text.pth holds str"),
    ("train {TINY} --config broken.yaml", 2, "cannot read broken.yaml"),
    ("train {TINY} --config section.yaml", 2, "data is a section"),
    ("train {TINY} --out full", 2, "full is not empty"),
    ("train {TINY} --out text.pth", 2, "text.pth is a file"),
    ("train {TINY} --out text.pth/run", 2, "name another --out"),
    ("train --resume", 2, "no unfinished run"),
    ("distill --resume gone", 2, "no run 'gone'"),
    ("distill --resume gone --lr 1 --method kd", 2, "not --lr, --method"),
    ("train --resume gone --dry-run --set train.lr=1", 2, "not --dry-run"),
    ("runs info gone", 2, "no run 'gone'"),
    ("runs info", 2, "no last run"),
    ("runs rm gone --yes", 2, "no run 'gone'"),
    ("models info r19", 2, "did you mean 'r18'"),
    ("models info r18 --size 3", 2, "HEIGHTxWIDTH"),
    ("models info r18 --classes 0", 2, "1 to 255"),
    ("models info r18 --output-stride 7", 2, "8 and 16"),
    ("methods info kz", 2, "did you mean 'kt'"),
    ("data info gone", 3, "no dataset or directory called 'gone'"),
    ("data check empty", 3, "no images found"),
]


@pytest.fixture(scope="module")
def odds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are not what they are named as."""
    place = tmp_path_factory.mktemp("odds")
    for name in ("text.pth", "text.safetensors"):
        (place / name).write_text("hello\n")
    torch.save({"w": torch.zeros(3)}, place / "foreign.pth")
    (place / "broken.yaml").write_text("train: [\n")
    (place / "section.yaml").write_text("data: camvid\n")
    (place / "empty").mkdir()
    (place / "full").mkdir()
    (place / "full" / "thesis.tex").touch()
    save_student(place / "seven.safetensors", models.build("pspnet-mv2_035", 7, seed=0), {})
    return place


@pytest.mark.parametrize(("line", "code", "said"), WRONG, ids=[line for line, *_ in WRONG])
def test_a_wrong_line_gets_one_line_its_code_and_leaves_nothing(
    odds: Path, line: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(odds)
    monkeypatch.setattr(job, "train", lambda *_: pytest.fail("it began to train"))
    before = sorted(odds.rglob("*"))
    done = kdc(line.replace("{TINY}", TINY).replace("{T}", f"{TINY} --teacher pspnet-mv2_050"))
    assert (done.code, done.err.count("\n")) == (code, 1), done.err
    assert done.err.startswith("kdc: error: ") and said in done.err
    assert sorted(odds.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    for flags in ("--device cuda", "--set train.device=cuda"):
        done = kdc(f"train {TINY} {flags} --dry-run")
        assert (done.code, done.err.count("\n")) == (2, 1) and "accepted here: cpu, auto" in done.err


def test_more_devices_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    done = kdc(f"train {TINY} --devices 2 --dry-run")
    assert (done.code, done.err.count("\n")) == (2, 1) and "1 CUDA device\n" in done.err


def test_fp16_on_a_cpu_is_said_to_be_bf16() -> None:
    done = kdc(f"train {TINY} --device cpu --precision 16-mixed --dry-run")
    assert done.code == 0 and "bf16-mixed is used" in done.out


def test_out_and_resume_of_a_run_that_is_finished(chain: dict[str, Done], place: Path) -> None:
    run = chain["distill"].json["run"]
    done = kdc(f"train {TINY} --out {run}")
    assert done.code == 8 and f"--resume {run}" in done.err and done.err.count("\n") == 1
    done = kdc(f"distill --resume {run}")
    assert done.code == 2 and "is finished (step 2)" in done.err
    assert kdc("distill --resume").code == 2


def test_an_existing_out_is_refused_before_a_teacher_is_fitted(chain: dict[str, Done], place: Path, tmp_path) -> None:
    with contextlib.chdir(tmp_path):
        done = kdc(f"distill {TINY} --teacher pspnet-mv2_050 --out {chain['distill'].json['run']}")
        assert done.code == 8 and not Path("runs").exists()


def test_init_starts_from_another_run(chain: dict[str, Done], place: Path, tmp_path: Path) -> None:
    source = Path(chain["train"].json["run"])
    run = Run(
        kdc(f"train {DATA} --iters 0 --student pspnet-mv2_035 --init {source} --out {tmp_path / 'a'} --json").json[
            "run"
        ]
    )
    from kdc.distill.run.checkpoint import load_student

    mine, theirs = (load_student(r).state_dict() for r in (run, source))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    done = kdc(f"train {DATA} --student pspnet-mv2_050 --init {source} --dry-run")
    assert done.code == 4 and "is pspnet-mv2_035 for 11 classes, the student pspnet-mv2_050" in done.err


def test_a_stopped_run_goes_on_by_its_newest_name(chain: dict[str, Done], place: Path, tmp_path: Path) -> None:
    shutil.copytree(chain["train"].json["run"], tmp_path / "runs" / "copy")
    with contextlib.chdir(tmp_path):
        copy = Run(tmp_path / "runs" / "copy")
        copy.record(status="stopped")
        assert kdc("train --resume --json --workers 0").json == {
            "run": str(copy.path), "status": "finished", "best": pytest.approx(chain["train"].json["best"]),
            "teacher": None, "baseline": None,
        }  # fmt: skip
        copy.record(status="stopped")
        for file in copy.checkpoints.glob("last*"):
            file.unlink()
        done = kdc("train --resume copy")
        assert done.code == 4 and "no checkpoint to resume from" in done.err and done.err.count("\n") == 1
        save_state(copy.checkpoints, {"stage": "main"}, 1)
        next(copy.checkpoints.glob("last*.pt")).write_bytes(b"")
        assert kdc("train --resume copy").code == 4
