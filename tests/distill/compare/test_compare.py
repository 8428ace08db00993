"""`kdc compare`: what is planned, made, skipped, resumed, refused and told."""

import contextlib
import io
import json
import shlex
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdc import cli
from kdc.distill import console
from kdc.distill.charts.svg import Scale
from kdc.distill.compare import compare as comparing
from kdc.distill.compare.difference_chart import difference_chart
from kdc.distill.compare.folder import Comparison, Facts, default_folder
from kdc.distill.compare.grid_chart import axis_places, grid_charts
from kdc.distill.compare.page import comparison_page
from kdc.distill.compare.plan import Entry, make_entries, parse_grid, parse_methods, parse_seeds, split
from kdc.distill.compare.results import Results, SummaryRow, TeacherRow, collect
from kdc.distill.errors import UsageError
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config
from kdc.distill.training.state import Stopped

from ..._page import Page

TINY = (
    "--size 32x64 --crop 32x64 --batch 2 --iters 2 --lr 0.01 --student pspnet-mv2_035 --teacher pspnet-mv2_050 "
    "--set data.count=12 --set data.val_count=4 --set train.threads=1 --set train.val_every=1 --set train.save_every=1 "
    "--set train.teacher_iters=2 --set model.teacher_check=false"
)
FLAGS = {"model.student": "pspnet-mv2_035", "model.teacher": "pspnet-mv2_050", "data.source": "builtin"}
LINE = f"compare {TINY} --methods kd,lad --seeds 2 --grid method.lad.ad=1,30 --out all"


def kdc(line: str) -> tuple[int, str, str]:
    """Run a command; return its exit code and what it wrote to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    console.json_mode = False
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(shlex.split(line))
    console.json_mode = False
    return code, out.getvalue(), err.getvalue()


def plan(methods: str, *grid: str, seeds: str = "1", teacher: str = "pspnet-mv2_050") -> list[Entry]:
    return make_entries(parse_methods(methods), seeds, parse_grid(grid), FLAGS | {"model.teacher": teacher})[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The comparison of LINE, made once, and what --json printed."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("place")
        patch.chdir(place)
        (place / "runs").mkdir()
        code, out, err = kdc(f"{LINE} --json")
        assert code == 0, err
        yield place, json.loads(out)


@pytest.fixture
def place(made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the comparison to spoil, in a working folder of its own."""
    shutil.copytree(made[0] / "all", tmp_path / "all", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record every run that is begun or resumed instead of making it."""
    called: list[str] = []
    monkeypatch.setattr(comparing, "run_job", lambda config, out, root: called.append(f"run {out.name}"))
    monkeypatch.setattr(comparing, "resume_job", lambda path, **_: called.append(f"resume {Path(path).name}"))
    return called


# what is planned


def test_the_baseline_is_always_there_and_each_run_is_paired_with_its_own() -> None:
    entries = plan("kd,lad+kd", "method.lad.ad=1,10", "train.lr=0.01,0.02", seeds="0,4")
    assert len(entries) == 2 * (2 + 2 + 4)
    assert [entry.name for entry in entries[:4]] == [
        "none_lr-0.01_s0", "none_lr-0.02_s0", "kd_lr-0.01_s0", "kd_lr-0.02_s0"
    ]  # fmt: skip
    by_name = {entry.name: entry for entry in entries}
    one = by_name["lad+kd_lad.ad-10_lr-0.02_s4"]
    assert one.baseline == "none_lr-0.02_s4" and one.label == "lad+kd lad.ad=10 lr=0.02"
    assert one.config.method.settings() == {"lad": {"ad": 10}}
    assert (one.config.train.lr, one.config.train.seed) == (0.02, 4) == (
        by_name[one.baseline].config.train.lr, by_name[one.baseline].config.train.seed
    )  # fmt: skip
    assert by_name["none_lr-0.01_s0"].baseline is None and by_name["none_lr-0.01_s0"].config.model.teacher is None


def test_a_grid_of_one_method_or_of_teachers_leaves_the_others_alone() -> None:
    names = [entry.name for entry in plan("kd,kt", "method.kt.lt=0,1", "method.kt.T=linear(4,1,100),4")]
    assert names == [
        "none_s0", "kd_s0", "kt_lt-0_T-linear-4-1-100_s0", "kt_lt-0_T-4_s0", "kt_lt-1_T-linear-4-1-100_s0",
        "kt_lt-1_T-4_s0",
    ]  # fmt: skip
    names = [entry.name for entry in plan("kd", "model.teacher=r18,r50")]
    assert names == ["none_s0", "kd_teacher-r18_s0", "kd_teacher-r50_s0"]


def test_a_name_that_is_method_and_preset_means_the_method_and_a_preset_gives_no_recipe() -> None:
    before = len(console.notes)
    kt, lad = parse_methods("kt,preset:lad")[1:]
    assert (kt.spec, kt.preset, lad.label, lad.spec, lad.preset) == ("kt", None, "preset:lad", "lad+kd", "lad")
    assert any("not as the presets of the name: kt" in line for line in console.notes[before:])
    assert [choice.label for choice in parse_methods("cirkd-kd,none,kd,kd")] == ["none", "preset:cirkd-kd", "kd"]
    _, own, preset = plan("lad,preset:lad")
    assert own.config.method.settings() == {}
    assert preset.config.method.settings()["kd"]["reduction"] == "element" and preset.name == "preset-lad_s0"
    assert preset.config.train == own.config.train and preset.config.task == own.config.task
    with pytest.raises(UsageError, match="sets no method"):
        parse_methods("label-assist-teacher")


def test_settings_of_one_method_do_not_reach_another(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("method: {name: kt, kt: {T: 2}, cwd: {T: 3}}\ntrain: {lr: 0.5}\n")
    choices = parse_methods("kd,kt")
    _, entries = make_entries(choices, "1", {}, FLAGS, ["method.kd.T=3"], tmp_path / "c.yaml")
    assert [entry.config.method.model_dump() for entry in entries] == [
        {"name": "none"}, {"name": "kd", "kd": {"T": 3}}, {"name": "kt", "kt": {"T": 2}}
    ]  # fmt: skip
    assert {entry.config.train.lr for entry in entries} == {0.5}
    assert any("left out" in line and "method.cwd.T" in line for line in console.notes)


def test_a_label_assisted_method_trains_a_teacher_of_the_ordinary_one_s_architecture(
    made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made[0])
    (run,) = (made[0] / "runs").iterdir()
    _, kd, assisted = plan("kd,label-assisted", teacher=str(run))
    assert (kd.config.model.teacher, assisted.config.model.teacher) == (str(run), "pspnet-mv2_050")
    assert plan("label-assisted", teacher=str(run))[1].config.model.teacher == str(run)
    _, kd, assisted = plan("kd,label-assisted", teacher=str(run / "checkpoints" / "best.safetensors"))
    assert Path(kd.config.model.teacher or "").name == "best.safetensors"
    assert assisted.config.model.teacher == "pspnet-mv2_050"


@pytest.mark.parametrize(
    ("text", "first", "seeds"), [("3", 0, [0, 1, 2]), ("2", 5, [5, 6]), ("0,4,7", 5, [0, 4, 7]), ("7,", 0, [7])]
)
def test_seeds_are_how_many_or_which(text: str, first: int, seeds: list[int]) -> None:
    assert parse_seeds(text, first) == seeds


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,3, 10", ["1", "3", "10"]),
        ("linear(4,1,100),step(0,1,5),2", ["linear(4,1,100)", "step(0,1,5)", "2"]),
        ("[1, 2],{a: 1, b: 2}", ["[1, 2]", "{a: 1, b: 2}"]),
        ("bb,bb,dec", ["bb", "dec"]),
    ],
)
def test_commas_in_brackets_belong_to_the_value(text: str, values: list[str]) -> None:
    assert split(text, "--grid") == values


WRONG = [
    ("--methods kz", 2, "no method or preset 'kz'; did you mean"),
    ("--methods lad+kz", 2, "no method or preset 'kz'"),
    ("--methods preset:kz", 2, "no preset 'kz'"),
    ("--methods kd,,kt", 2, "a value between the commas is missing"),
    ("--methods kd --seeds some", 2, "--seeds 'some': accepted are how many"),
    ("--methods kd --seeds 0", 2, "--seeds '0'"),
    ("--methods kd --grid method.kd.T", 2, "is not key=a,b,c"),
    ("--methods kd --grid method.kd.T=1,", 2, "a value between the commas is missing"),
    ("--methods kd --grid method.kd=1,2", 2, "name the setting"),
    ("--methods kd --grid train.seed=1,2", 2, "--seeds names the seeds"),
    ("--methods kd --grid method.name=kd,kt", 2, "--methods names the methods"),
    ("--methods kd --grid train.teacher_iters=1,2", 2, "the teacher is made once"),
    ("--methods kd --grid method.lad.ad=1,2", 2, "no method of the comparison is 'lad'"),
    ("--methods kd,lad --set method.lda.ad=1", 2, "no method of the comparison is 'lda'; did you mean 'lad'?"),
    ("--methods kd --grid train.itres=1,2", 2, "did you mean 'train.iters'"),
    ("--methods kd --grid method.kd.tempo=1,2", 2, "kd tempo=1: method kd has no 'tempo'"),
    ("--methods kd,lad --grid method.lad.at=bb,nose", 2, "lad at=nose: method lad reads the tap 'nose'"),
    ("--methods kd --set train.devices=2", 2, "trains on one device"),
    ("--methods kd --teacher r99", 2, "no model 'r99'"),
    ("", 2, "no methods named"),
    ("--out nowhere", 2, "no methods named"),
]


@pytest.mark.parametrize(("flags", "code", "said"), WRONG)
def test_mistakes_are_reported_before_anything_runs(
    flags: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, _, err = kdc(f"compare {TINY} --dry-run {flags}")
    assert (found, err.count("\n")) == (code, 1) and said in err, err
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prints_every_run_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = kdc(f"{LINE} --dry-run --json")
    assert code == 0 and not list(tmp_path.iterdir()), err
    found = json.loads(out)
    assert (found["todo"], found["steps"], len(found["runs"])) == (8, 16, 8)
    one = found["runs"][2]
    assert (one["name"], one["settings"], one["state"], one["steps"]) == ("lad_ad-1_s0", {"lad.ad": 1}, "missing", 2)
    assert "a fit of 2 steps that comes first" in one["teacher"] and found["runs"][0]["teacher"] is None
    assert "pspnet-mv2_050 from a fit" in kdc(f"{LINE} --dry-run")[1]


def test_the_folder_s_name_is_the_protocol_s() -> None:
    def name(*arguments: Any, **flags: Any) -> Path:
        return default_folder(make_entries(parse_methods(arguments[0]), arguments[1], {}, FLAGS | flags)[0])

    assert name("kd", "1") == name("kd,kt", "0,4,7") == name("kd", "1", **{"train.workers": 2})
    assert name("kd", "1") != name("kd", "1", **{"train.lr": 0.123})
    assert name("kd", "1").parent == Path("compare") and name("kd", "1").name.startswith(
        "pspnet-mv2_050_pspnet-mv2_035"
    )


# what is made


def test_all_runs_are_made_under_one_teacher(made: tuple[Path, dict[str, Any]]) -> None:
    place, result = made
    runs = {row["name"]: Run(place / "all" / "runs" / row["name"]) for row in result["runs"]}
    assert len(runs) == 8 and result["states"] == {"finished": 8} and result["failed"] == {}
    assert {run.card.kind for name, run in runs.items() if name.startswith("none")} == {"train"}
    teachers = {(run.card.teacher.run, run.card.teacher.sha256) for run in runs.values() if run.card.teacher}
    assert len(teachers) == 1
    teacher = Run(Path(next(iter(teachers))[0] or ""))
    assert teacher.path.parent == place / "runs" and (teacher.card.kind, teacher.card.seed) == ("teacher", 0)
    for name, run in runs.items():
        if not name.startswith("none"):
            assert run.card.baseline == str(runs[f"none_{name[-2:]}"].path)
    assert not (place / "runs" / "last").exists()  # the user's last run is not touched
    assert result["teachers"][0]["miou"] == teacher.card.miou


def test_the_table_says_what_the_runs_say(made: tuple[Path, dict[str, Any]]) -> None:
    place, result = made

    def miou(name: str) -> float:
        return json.loads((place / "all" / "runs" / name / "run.json").read_text())["final"]["miou"]

    rows = {row["label"]: row for row in result["summary"]}
    assert list(rows) == ["no teacher", "kd", "lad ad=1", "lad ad=30"]
    a, b = (miou(f"lad_ad-30_s{seed}") - miou(f"none_s{seed}") for seed in (0, 1))
    row = rows["lad ad=30"]
    assert row["difference"] == pytest.approx((a + b) / 2) and row["seeds"] == [0, 1]
    half = 12.706204736 * abs(a - b) / 2  # sd / sqrt 2 of two values is half their distance
    assert row["low"] == pytest.approx((a + b) / 2 - half) and row["high"] == pytest.approx((a + b) / 2 + half)
    assert (row["verdict"] == "not shown") == (row["low"] <= 0 <= row["high"])
    assert rows["no teacher"]["verdict"] == "" and rows["no teacher"]["sd"] == pytest.approx(
        abs(miou("none_s0") - miou("none_s1")) / 2**0.5
    )
    assert all(other["p_holm"] >= other["p"] for other in result["summary"] if other["p"] is not None)
    last = [r for r in Run(place / "all" / "runs" / "kd_s0").records() if "val" in r][-1]
    assert result["runs"][1]["miou_last"] == last["val"]["miou"] and last["step"] == 2


def test_the_files_are_there_and_readable(made: tuple[Path, dict[str, Any]]) -> None:
    place, result = made
    folder = place / "all"
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "plan.json", "results.json", "results.csv", "summary.csv", "per_class.csv", "summary.md", "comparison.svg",
        "grid-weight.svg", "runs",
    }  # fmt: skip
    assert [Path(file).name for file in result["files"]] == [
        "results.json", "results.csv", "summary.csv", "per_class.csv", "comparison.svg", "grid-weight.svg",
        "summary.md", "comparison.html",
    ]  # fmt: skip
    page = (folder / "summary.md").read_text()
    for words in (
        "| lad ad=30 |",
        "verdict",
        "Student's t",
        "p (Holm)",
        "![comparison](comparison.svg)",
        "not photographs",
    ):
        assert words in page
    assert len((folder / "results.csv").read_text().splitlines()) == 9
    assert len((folder / "per_class.csv").read_text().splitlines()) == 1 + 4 * 11
    for name in ("comparison.svg", "grid-weight.svg"):
        root = ElementTree.parse(folder / name).getroot()
        words = "".join(root.itertext())
        assert "no teacher" in words and "teacher" in words and "prefers-color-scheme:dark" in words
    circles = list(ElementTree.parse(folder / "comparison.svg").getroot().iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 3 * (2 + 1)  # each method's seeds and mean


def test_the_table_is_made_again_without_running(place: Path, forbidden: list[str]) -> None:
    (place / "all" / "summary.md").unlink()
    code, out, err = kdc("compare --out all")
    assert code == 0 and "lad ad=30" in out and (place / "all" / "summary.md").exists(), err
    assert forbidden == []
    code, _, err = kdc("compare --out elsewhere")
    assert code == 2 and "holds no comparison" in err


@pytest.mark.process
def test_finished_runs_are_skipped_and_others_resumed_or_started(place: Path, forbidden: list[str]) -> None:
    assert kdc(LINE)[0] == 0 and forbidden == []
    shutil.rmtree(place / "all" / "runs" / "none_s1")
    Run(place / "all" / "runs" / "kd_s0").record(status="running")
    Run(place / "all" / "runs" / "kd_s1").record(status="running")
    shutil.rmtree(place / "all" / "runs" / "kd_s1" / "checkpoints")
    code, out, _ = kdc(LINE)
    assert forbidden == ["resume kd_s0", "run none_s1", "run kd_s1"] and code == 0
    assert "2 of 8: kd, seed 0" in out and "1 of 8: no teacher, seed 0: finished before" in out


def test_broken_runs_end_as_the_unbroken_ones_did(place: Path, made: tuple[Path, dict[str, Any]]) -> None:
    Run(place / "all" / "runs" / "kd_s0").record(status="running", final=None)
    shutil.rmtree(place / "all" / "runs" / "lad_ad-1_s1")
    code, out, err = kdc(f"{LINE} --json")
    assert code == 0, err
    assert json.loads(out)["summary"] == made[1]["summary"]
    assert not (place / "runs").exists()  # the teacher that the plan knows was used


def test_a_method_and_a_seed_extend_the_comparison(place: Path, forbidden: list[str]) -> None:
    assert kdc(f"compare {TINY} --methods cwd --seeds 3 --out all")[0] == 0
    assert forbidden == [f"run {name}" for name in ("cwd_s0", "cwd_s1", "none_s2", "cwd_s2")]
    kept = {entry.name for entry in Comparison(Path("all")).entries}
    assert kept >= {"lad_ad-30_s1", "kd_s0", "none_s2", "cwd_s2"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--methods kd --set train.clip=1", "another protocol (train.clip=unset there, 1.0 here)"),
        ("--methods kd --set data.val_count=5", "another protocol (data.val_count=4 there, 5 here)"),
        ("--methods kd --set method.kd.T=2", "holds kd_s0 with other settings (method.kd.T=unset there, 2 here)"),
    ],
)
def test_a_changed_plan_is_refused(place: Path, forbidden: list[str], flags: str, said: str) -> None:
    before = (place / "all" / "plan.json").read_bytes()
    code, _, err = kdc(f"compare {TINY} {flags} --out all")
    assert code == 2 and said in err, err
    assert (place / "all" / "plan.json").read_bytes() == before and forbidden == []


def test_changed_data_is_refused(place: Path, forbidden: list[str]) -> None:
    folder = Comparison(Path("all"))
    folder.facts = {name: replace(facts, data="what the files were") for name, facts in folder.facts.items()}
    folder.write()
    code, _, err = kdc(f"compare {TINY} --methods cwd --out all")
    assert code == 3 and "the data has changed since" in err and forbidden == []


def test_a_folder_of_other_things_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "mine.txt").write_text("keep me")
    code, _, err = kdc(LINE)
    assert code == 2 and "not empty" in err
    (tmp_path / "all" / "mine.txt").rename(tmp_path / "all" / "plan.json")
    code, _, err = kdc(LINE)
    assert code == 2 and "cannot be read as a plan" in err


@pytest.mark.process
def test_a_run_whose_numbers_go_bad_is_recorded_and_the_others_go_on(place: Path) -> None:
    line = f"compare {TINY} --methods kd --seeds 1 --grid method.kd.kd=1e39,1 --out bad".replace("iters 2", "iters 4")
    code, out, err = kdc(line)
    assert code == 6 and "1 of 3 runs failed (kd_kd-1e39_s0)" in err, err
    assert "kd_kd-1e39_s0 failed" in out and "not finite" in out
    folder = Comparison(Path("bad"))
    assert [folder.state(entry.name) for entry in folder.entries] == ["finished", "failed", "finished"]
    assert folder.run("kd_kd-1e39_s0").card.status == "failed"  # pyright: ignore[reportOptionalMemberAccess]
    row = collect(folder).summary[1]
    assert (row.failed, row.miou, row.verdict) == (1, None, "not shown")
    code, out, _ = kdc(line)  # its numbers are a result: it is not tried again
    assert code == 6 and "failed before" in out and "finished before" in out


def test_other_failures_are_tried_again_and_a_busy_folder_ends_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kd_s0", "kd_s1"):
        shutil.rmtree(place / "all" / "runs" / name)
    made = comparing.run_job

    def exhausted(config: Config, out: Path, root: Path) -> Run:
        if out.name == "kd_s0":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return made(config, out=out, root=root)

    monkeypatch.setattr(comparing, "run_job", exhausted)
    code, out, _ = kdc(f"{LINE} --json")
    assert code == 6
    result = json.loads(out)
    assert result["failed"] == {"kd_s0": "CUDA out of memory. Tried to allocate 2 GiB"}
    row = next(row for row in result["summary"] if row["label"] == "kd")
    assert row["seeds"] == [1] and len(row["pairs"]) == 1 and row["low"] is None and row["verdict"] == "not shown"
    monkeypatch.setattr(comparing, "run_job", made)
    assert kdc(LINE)[0] == 0

    held = Run(place / "all" / "runs" / "lad_ad-1_s0")
    held.record(status="running")
    held.lock()
    code, _, err = kdc(LINE)
    held.unlock()
    assert code == 8 and "another process" in err and Comparison(Path("all")).failed == {}


def test_a_signal_stops_the_comparison_and_names_the_way_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(place / "all" / "runs" / "lad_ad-30_s0")
    made = comparing.run_job

    def stopped(config: Config, out: Path, root: Path) -> Run:
        run = made(config, out=out, root=root)
        run.record(status="stopped")
        raise Stopped(2, run)

    monkeypatch.setattr(comparing, "run_job", stopped)
    code, _, err = kdc(LINE)
    assert code == 130 and "run 4 of 8; the same kdc compare goes on with them all" in err
    assert "| lad ad=30 | 1 of 2 |" in (place / "all" / "summary.md").read_text()
    assert Comparison(Path("all")).state("lad_ad-30_s0") == "unfinished"


def test_a_changed_teacher_ends_it(place: Path, made: tuple[Path, dict[str, Any]]) -> None:
    folder = Comparison(Path("all"))
    ((key, teacher),) = folder.teachers.items()
    assert teacher.card
    folder.teachers[key] = replace(teacher, card=replace(teacher.card, sha256="0" * 64))
    folder.write()
    for name in ("none_s1", "kd_s1"):
        shutil.rmtree(place / "all" / "runs" / name)
    code, _, err = kdc(LINE)
    assert code == 4 and "missing or was changed" in err
    assert Comparison(Path("all")).state("none_s1") == "missing"  # it is told before anything is trained


# the tables and charts


def collected(tmp_path: Path, scores: dict[str, list[float]]) -> Results:
    """Return what ``collect`` reads from made-up runs: by method, the IoU of two classes is (score, score / 2)."""
    folder = Comparison(tmp_path / "made-up")
    base, entries = make_entries(parse_methods(",".join(scores)), "3", {}, FLAGS)
    folder.extend(base, entries, {entry.name: Facts("same", 1) for entry in entries})
    for entry in entries:
        if entry.seed < len(scores[entry.method]):
            score = scores[entry.method][entry.seed]
            iou = [score, score / 2]
            final = {"miou": sum(iou) / 2, "iou": iou, "classes": ["road", "car"]}
            card = {"status": "finished", "final": final, "device": "cpu", "data": {"notes": []}}
            path = folder.root / entry.name
            path.mkdir(parents=True)
            (path / "run.json").write_text(json.dumps(card | {"versions": {"kdc": "1", "torch": "2"}}))
    return collect(folder)


def test_the_table_by_hand(tmp_path: Path) -> None:
    results = collected(
        tmp_path,
        {
            "none": [0.40, 0.44, 0.48],
            "kd": [0.48, 0.52, 0.60],
            "cwd": [0.20, 0.24, 0.28],
            "lad": [0.60, 0.20],
            "pad": [0.5],
        },
    )
    rows = {row.method: row for row in results.summary}
    kd = rows["kd"]  # differences of mIoU: three quarters of 0.08, 0.08, 0.12
    assert kd.difference == pytest.approx(0.07) and kd.sd == pytest.approx(0.75 * 0.061101, abs=1e-6)
    half = 4.30265273 * 0.75 * 0.0230940 / 3**0.5
    assert kd.low == pytest.approx(0.07 - half, abs=1e-6) and kd.verdict == "gain"
    assert kd.best_class and vars(kd.best_class) == {"name": "road", "difference": pytest.approx(0.28 / 3)}
    assert kd.worst_class and vars(kd.worst_class) == {"name": "car", "difference": pytest.approx(0.14 / 3)}
    assert rows["cwd"].verdict == "loss" and rows["cwd"].difference == pytest.approx(-0.15)
    assert rows["lad"].verdict == "not shown" and rows["lad"].planned == 3 and rows["lad"].seeds == [0, 1]
    assert rows["pad"].verdict == "not shown" and rows["pad"].low is None and rows["pad"].p_holm is None
    # Holm over the three that have a test: the smallest times 3
    tested = sorted((rows[m].p or 0.0, rows[m].p_holm) for m in ("kd", "cwd", "lad"))
    assert tested[0][1] == pytest.approx(3 * tested[0][0]) and tested[1][1] == pytest.approx(2 * tested[1][0])
    car = next(row for row in results.classes if (row.label, row.name) == ("kd", "car"))
    assert car.iou == pytest.approx(0.8 / 3) and car.difference == pytest.approx(0.14 / 3)
    assert car.low and car.difference and car.high and car.low < car.difference < car.high
    assert results.states == {"finished": 12, "missing": 3}
    assert any("3 comparisons are made at once" in note for note in results.notes)


def test_the_page_shows_the_table_without_a_script(tmp_path: Path) -> None:
    scores = {"none": [0.40, 0.44, 0.48], "kd": [0.48, 0.52, 0.60], "pad": [0.5]}
    results = replace(collected(tmp_path, scores), failed={"pad-s1": "it's <b>broken</b>"})
    page = Page(comparison_page(results, "r101 to <r18>", {"comparison.svg": difference_chart(results.summary, [])}))
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert [str(image["src"]).partition(";")[0] for image in page.images] == ["data:image/svg+xml"]
    text = " ".join(page.text.split())
    for words in (
        "+7.00 points of mIoU for kd over no teacher, the mean of 3 pairs of seeds; 95 % interval +2.70 to +11.30",
        "A gain: the interval leaves out 0. It is the best of several",
        "kd3 of 340.00",
        "r101 to <r18>",
        "pad1 of 3",
        "sddifference95 % intervalpp (Holm)verdict",
        "Generated images.",
        "Student's t",
    ):
        assert words in text, (words, text)
    alone = collected(tmp_path / "alone", {"none": [0.4]})
    text = " ".join(Page(comparison_page(alone, "alone", {})).text.split())
    assert "No run has a finished baseline yet" in text and "sddifference" not in text


def summary_row(method: str, grid: dict[str, str], miou: float, **changes: Any) -> SummaryRow:
    """Return a row as ``collect`` makes it: two seeds around ``miou``, against a baseline at 0.5."""
    row = SummaryRow(
        label="no teacher",
        method=method,
        grid=grid,
        seeds=[0, 1],
        planned=2,
        failed=0,
        scores=[miou - 0.01, miou + 0.01],
        miou=miou,
        sd=None,
        baseline=None,
        baseline_miou=None,
        pairs=[],
        difference=None,
        low=None,
        high=None,
        p=None,
        p_holm=None,
        verdict="",
        best_class=None,
        worst_class=None,
        miou_last=None,
    )
    if method != "none":
        row = replace(row, label=" ".join([method, *grid.values()]), baseline="no teacher", verdict="gain")
        row = replace(row, pairs=[(miou, 0.5)] * 2, difference=miou - 0.5, low=miou - 0.52, high=miou - 0.48)
    return replace(row, **changes)


def test_the_plots_of_a_grid() -> None:
    row = summary_row
    teachers = [TeacherRow("r101", "a run", 0.62, [0.62], False)]
    weights = [row(m, {f"method.{m}.ad": w}, 0.5 + float(w) / 1000) for m in ("lad", "cad") for w in ("1", "10", "100")]
    places = [row("lad", {"method.lad.at": at}, 0.55) for at in ("bb", "dec", "logits")]
    charts = grid_charts([row("none", {}, 0.5), *weights, *places], teachers)
    assert list(charts) == ["grid-weight.svg", "grid-at.svg"]
    lines, names = (ElementTree.fromstring(chart) for chart in charts.values())
    space = "{http://www.w3.org/2000/svg}"
    assert [len((line.get("points") or "").split()) for line in lines.iter(f"{space}polyline")] == [3, 3]
    assert not list(names.iter(f"{space}polyline"))
    for root in (lines, names):
        kinds = [line.get("class") for line in root.iter(f"{space}line")]
        assert kinds.count("alone") == 1 and kinds.count("teacher") == 1
    assert "weight, log scale" in "".join(lines.itertext()) and "logits" in "".join(names.itertext())

    # the baseline's own learning rates are a line, and there is no single line of it
    rates = [
        row(m, {"train.lr": lr}, 0.5, label=f"{m} {lr}", baseline=f"none {lr}" if m == "kd" else None)
        for m in ("none", "kd")
        for lr in ("1", "2", "3")
    ]
    root = ElementTree.fromstring(grid_charts(rates, [])["grid-train-lr.svg"])
    assert len(list(root.iter(f"{space}polyline"))) == 2
    assert "alone" not in [line.get("class") for line in root.iter(f"{space}line")]
    assert grid_charts([row("none", {}, 0.5)], teachers) == {} and difference_chart([row("none", {}, 0.5)], []) == ""


@pytest.mark.parametrize(
    ("values", "scale", "shares"),
    [
        (["1", "10", "100"], "log scale", [0, 0.5, 1]),
        (["2", "1", "5"], "", [0.25, 0, 1]),
        (["0", "1", "100"], "not to scale", [0, 0.5, 1]),
        (["1", "0"], "names", [1, 0]),
        (["bb", "dec", "2"], "names", [0, 0.5, 1]),
    ],
)
def test_where_values_stand(values: list[str], scale: str, shares: list[float]) -> None:
    places, how = axis_places(values)
    share = Scale(list(places.values()), (0, 1), scale == "log scale")
    assert how == scale and [share(places[value]) for value in values] == pytest.approx(shares)
