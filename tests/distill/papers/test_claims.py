"""``kdc verify``: independent counts, numbers planted and removed, trained runs, wrong files and lines."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdc import cli
from kdc.distill import cost, models
from kdc.distill.errors import UsageError
from kdc.distill.papers import tables
from kdc.distill.papers.claims import WIDTH, show_claims, verify
from kdc.distill.papers.conventions import COUNTINGS, Convention, count_macs
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config

COUNTED = json.loads((Path(__file__).parents[2] / "golden" / "index.json").read_text())["model_counts"]


def verified(paper: str = "all", **options: Any) -> dict[str, Any]:
    """Return what ``kdc verify --json`` prints."""
    return verify(paper, **options).to_dict()


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    return verified()


def claims_of(result: dict[str, Any], paper: str | None = None) -> list[dict[str, Any]]:
    return [c for each in result["papers"] if paper in (None, each["paper"]) for c in each["claims"]]


def one(result: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    found = [c for c in claims_of(result) if all(c[key] == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def edited(place: Path, paper: str, *changes: tuple[str, str]) -> Path:
    """Write a paper of kdc's with some texts replaced, each at its first place."""
    text = (tables.FOLDER / f"{paper}.yaml").read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    file = place / f"{paper}.yaml"
    file.write_text(text)
    return file


def paper_of(place: Path, *rows: dict[str, Any], **table: Any) -> Path:
    """Write a paper of one table."""
    whole = {"table": "T", "dataset": "cityscapes", "classes": 19, "crop": "512x1024", "rows": list(rows), **table}
    file = place / "mine.yaml"
    file.write_text(yaml.safe_dump({"paper": "mine", "title": "t", "source": "s", "recipe": "r", "tables": [whole]}))
    return file


# ---- the bundled papers -----------------------------------------------------------------------------------------


@pytest.mark.process
def test_every_paper_is_read_whole(everything: dict[str, Any]) -> None:
    assert [each["paper"] for each in everything["papers"]] == tables.names()
    rows = {"kt": 3 * 17, "cirkd": 115, "angular": 172, "label-assisted": 7, "pixel-pair": 15, "ka": 2}
    rows |= {"aicsd": 15, "dist": 5, "skd": 6, "cwd": 5, "mgd": 4}
    assert Counter(c["paper"] for c in claims_of(everything)) == rows
    # sums of two columns of the longest tables: a slip of the pen would change them
    sums = {m: sum(c["value"] for c in claims_of(everything, "angular") if c["method"] == m) for m in ("cad", "lad")}
    assert sums == {"cad": pytest.approx(1582.64), "lad": pytest.approx(1596.48)}
    assert all(c["source"] and c["tolerance"] > 0 for c in claims_of(everything))


UNDILATED = "MACs undilated, 512x512"


@pytest.mark.process
@pytest.mark.parametrize(
    ("dataset", "printed", "status", "how"),
    [
        ("cityscapes", "61.1M", "reproduced", "parameters"),
        ("cityscapes", "687.8G", "reproduced", "MACs undilated, 512x1024"),
        ("cityscapes", "159.0G", "reproduced", "MACs undilated, 512x1024"),
        ("cityscapes", "131.7G", "reproduced", "MACs undilated, 512x1024"),
        ("cityscapes", "3.2M", "mislabelled", "as deeplabv3-mv2"),
        ("cityscapes", "39.2G", "mislabelled", "as deeplabv3-mv2"),
        ("voc", "384.84", "unexplained", f"none of 64 conventions, nearest {UNDILATED}"),
        ("voc", "86.0G", "reproduced", "MACs undilated, 512x512"),
        ("voc", "67.6G", "mislabelled", "as 150 classes"),
        ("ade20k", "67.6G", "reproduced", "MACs undilated, 512x512"),
        ("ade20k", "61.1M", "mislabelled", "as 19, 21 or 11 classes"),
        ("ade20k", "13.6M", "reproduced", "parameters"),
        ("ade20k", "384.4G", "mislabelled", "as 19, 21 or 11 classes"),
        ("ade20k", "86.0G", "mislabelled", "as 19, 21 or 11 classes"),
        ("ade20k", "12.9M", "reproduced", "parameters"),
    ],
)
def test_kt(everything: dict[str, Any], dataset: str, printed: str, status: str, how: str) -> None:
    found = [c for c in claims_of(everything, "kt") if (c["dataset"], c["printed"]) == (dataset, printed)]
    assert found and {(c["status"], c["how"]) for c in found} == {(status, how)}
    assert all(c["failed"] == (status != "reproduced") for c in found)


@pytest.mark.parametrize(
    ("paper", "printed", "recomputed"), [("kt", "384.84", "384.443G 21"), ("aicsd", "5.9", "5.82M 21")]
)
def test_what_no_convention_gives_is_counted_as_the_row_says(paper: str, printed: str, recomputed: str) -> None:
    claims = [v for v in verify(paper).verdicts if v.claim.printed == printed and v.claim.metric != "miou"]
    assert {f"{v.recomputed_text} {v.counted_classes}" for v in claims} == {recomputed}
    assert all(v.status == "unexplained" and v.counted_classes == v.claim.classes for v in claims)


def test_the_classes_stand_beside_each_recomputed_value(capsys: pytest.CaptureFixture[str]) -> None:
    show_claims(verify("kt"))
    words = " ".join(capsys.readouterr().out.split())
    assert "FLOPs 384.84 384.443G (21) " in words and "FLOPs 67.6G 67.63G (150) as 150 classes" in words


@pytest.mark.process
def test_the_row_of_another_network_takes_its_miou_along(everything: dict[str, Any]) -> None:
    rows = [c for c in claims_of(everything, "kt") if c["row_is"]]
    assert {c["row_is"] for c in rows} == {"deeplabv3-mv2"}
    assert {c["printed"] for c in rows} == {"3.2M", "39.2G", "73.12", "76.17"}
    assert {c["model"] for c in rows} == {"deeplabv3-r18"} and {c["row"] for c in rows} == {
        "S: DeepLabV3-ResNet18",
        "+ KT (Ours)",
    }


@pytest.mark.process
def test_cirkd_counted_whole_images(everything: dict[str, Any]) -> None:
    paper = [c for c in claims_of(everything, "cirkd") if c["table"].startswith("paper")]
    flops = {c["printed"]: (c["how"], c["rounded_twice"]) for c in paper if c["metric"] == "flops"}
    whole = "MACs undilated, 1024x2048"
    expected = {"2371.7G": (whole, False), "572.0G": (whole, False), "128.9G": (whole, False)}
    assert flops == expected | {"507.4G": (f"{whole}, rounded twice", True)}
    assert {c["convention"]["size"] for c in paper if c["metric"] == "flops"} == {(1024, 2048)}


@pytest.mark.process
def test_counts_to_the_last_parameter(everything: dict[str, Any]) -> None:
    exact = [c for c in claims_of(everything) if c["unit"] == "one" and c["metric"] == "params"]
    assert len(exact) == 36 and Counter(c["status"] for c in exact) == {"reproduced": 34, "unchecked": 2}
    assert all(c["recomputed"] == c["value"] for c in exact if c["status"] == "reproduced")
    assert {c["model"] for c in exact if c["status"] == "unchecked"} == {"segformer-b0", "segformer-b4"}
    heads = {c["convention"]["heads"] for c in exact if c["recipe"] == "cirkdv2"}
    assert heads == {"v2"}
    for key, name in (("deeplabv3_mbv2", "deeplabv3-mv2"), ("pspnet_r101", "pspnet-r101")):
        own = [c for c in exact if c["model"] == name and c["recipe"] == "cirkd" and c["convention"]["aux"]]
        assert all(c["value"] == COUNTED[key].get(str(c["classes"]), c["value"]) for c in own) and own


@pytest.mark.process
def test_contradictions_are_found(everything: dict[str, Any]) -> None:
    found = {(c["kind"], c["quantity"]): {p["printed"] for p in c["prints"]} for c in everything["contradictions"]}
    real = {quantity: prints for (kind, quantity), prints in found.items() if kind == "contradiction"}
    assert real == {
        "deeplabv3-r18 ade20k val mIoU, baseline": {"32.91", "33.91"},
        "deeplabv3plus-mv2 parameters": {"5.9", "5,816,053"},
        "deeplabv3-r101 parameters": {"61.1M", "61,186,284"},
        "deeplabv3-r101 FLOPs": {"384.84", "384.4G", "384.44G", "384.71G"},
        "deeplabv3-r18 FLOPs": {"86.0G", "86.09G"},
        "pspnet-r18 FLOPs": {"67.6G", "67.53G"},
    }
    assert found["convention", "deeplabv3-r18 parameters"] == {"13.6M", "13,459,155", "22,762,918"}  # V1, no aux, V2
    assert found["convention", "deeplabv3-r101 FLOPs"] == {"687.8G", "2371.7G"}
    assert found["label", "deeplabv3-r18 cityscapes val mIoU, baseline"] == {"73.12", "74.21"}
    assert found["recipe", "deeplabv3-r18 ade20k val mIoU, baseline"] == {"32.91", "33.91", "36.92", "37.19"}
    contradicted = {(c["paper"], c["printed"]) for c in claims_of(everything) if c["contradicted"]}
    assert contradicted == {("kt", "32.91"), ("cirkd", "33.91"), ("angular", "33.91")}
    assert everything["failed"] == sum(c["failed"] for c in claims_of(everything)) == 16


# ---- numbers taken out and put in -------------------------------------------------------------------------------


def test_a_corrected_number_ends_its_contradiction(tmp_path: Path) -> None:
    before, after = (
        verified(str(edited(tmp_path, "kt", change))) for change in (("32.91", "32.91"), ("32.91", "33.91"))
    )
    assert before["failed"] == 12 and after["failed"] == 11
    gone = {c["quantity"] for c in before["contradictions"] if c["kind"] == "contradiction"}
    gone -= {c["quantity"] for c in after["contradictions"] if c["kind"] == "contradiction"}
    assert gone == {"deeplabv3-r18 ade20k val mIoU, baseline"}
    assert verified("mgd")["contradictions"] and {c["kind"] for c in verified("mgd")["contradictions"]} == {"recipe"}


def test_a_corrected_label_ends_the_mislabelling(tmp_path: Path) -> None:
    row = '{row: "S: DeepLabV3-ResNet18", model: deeplabv3-r18, recipe: cirkd, params: 3.2M'
    result = verified(str(edited(tmp_path, "kt", (row, row.replace("model: deeplabv3-r18", "model: deeplabv3-mv2")))))
    assert one(result, printed="39.2G", method="none")["status"] == "reproduced"
    assert one(result, printed="39.2G", method="kt")["status"] == "mislabelled"
    assert one(result, printed="73.12")["row_is"] is None
    assert "deeplabv3-r18 cityscapes val mIoU, baseline" not in {
        c["quantity"] for c in result["contradictions"] if c["kind"] == "label"
    }


def test_a_planted_number_is_flagged_and_contradicts(tmp_path: Path) -> None:
    result = verified(str(edited(tmp_path, "kt", ("flops: 159.0G", "flops: 159.3G"), ("74.21", "74.31"))))
    assert one(result, printed="159.3G")["status"] == "unexplained"
    assert one(result, printed="74.31")["contradicted"]
    real = {c["quantity"]: c for c in result["contradictions"] if c["kind"] == "contradiction"}
    assert "159.3G" in {p["printed"] for p in real["deeplabv3-r18 FLOPs"]["prints"]}
    papers = {c["paper"] for c in real["deeplabv3-r18 cityscapes val mIoU, baseline"]["claims"]}
    assert papers == {"kt", "cirkd", "angular", "dist"}


@pytest.mark.process
def test_a_whole_row_must_fit_another_backbone(tmp_path: Path) -> None:
    params, flops = "2.65M", "21.4G"  # those of PSPNet-MobileNetV2
    both = verified(str(paper_of(tmp_path, {"row": "a", "model": "pspnet-r34", "params": params, "flops": flops})))
    assert [(c["status"], c["how"]) for c in claims_of(both)] == [("mislabelled", "as pspnet-mv2")] * 2
    other = verified(str(paper_of(tmp_path, {"row": "a", "model": "pspnet-r34", "params": params, "flops": "23.4G"})))
    assert [c["status"] for c in claims_of(other)] == ["unexplained"] * 2
    assert all(not c["row_is"] for c in claims_of(other))


@pytest.mark.parametrize(
    ("printed", "text"),
    [
        ("258.7G", "FLOPs, 512x1024"),
        ("129.4G", "MACs, 512x1024"),
        ("128.2G", "MACs, no aux, 512x1024"),
        ("159.0G", "MACs undilated, 512x1024"),
        ("318.0G", "FLOPs undilated, 512x1024"),
    ],
)
def test_the_words_of_the_row_are_tried_first(tmp_path: Path, printed: str, text: str) -> None:
    [claim] = claims_of(verified(str(paper_of(tmp_path, {"row": "a", "model": "deeplabv3-r18", "flops": printed}))))
    assert (claim["status"], claim["how"]) == ("reproduced", text)


def test_a_size_that_the_table_states_is_its_word(tmp_path: Path) -> None:
    row = {"row": "a", "model": "r18", "flops": "572.0G"}
    [free] = claims_of(verified(str(paper_of(tmp_path, row))))
    [bound] = claims_of(verified(str(paper_of(tmp_path, row | {"size": "512x1024"}))))
    assert (free["status"], free["changed"]) == ("reproduced", "")
    assert (bound["status"], bound["changed"]) == ("mislabelled", "size")


def test_tolerance_of_the_file_counts(tmp_path: Path) -> None:
    row = {"row": "a", "model": "deeplabv3plus-mv2", "params": "5.9"}
    loose = row | {"tolerance": {"params": 0.1}}
    statuses = [claims_of(verified(str(paper_of(tmp_path, each))))[0]["status"] for each in (row, loose)]
    assert statuses == ["unexplained", "reproduced"]


def test_conventions_have_an_order(tmp_path: Path) -> None:
    row = {"row": "a", "model": "deeplabv3-r18", "params": "13.6M", "flops": "129.4G"}
    everything_fits = row | {"tolerance": {"params": 100, "flops": 1000}}
    assert [c["how"] for c in claims_of(verified(str(paper_of(tmp_path, everything_fits))))] == [
        "parameters",
        "FLOPs, 512x1024",
    ]
    macs_fit = row | {"tolerance": {"flops": 35}}  # undilated too, and without the auxiliary head
    assert claims_of(verified(str(paper_of(tmp_path, macs_fit))))[1]["how"] == "MACs, 512x1024"


@pytest.mark.process
def test_macs_of_a_count_are_those_of_the_model() -> None:
    for name in ("deeplabv3-r18", "pspnet-mv2", "deeplabv3plus-r18"):
        with torch.device("meta"):
            model = models.build(name, 7)
        for _, counter, aux in COUNTINGS:
            assert count_macs(name, 7, "v1", (64, 96), aux, counter) == cost.macs(
                model, (64, 96), aux=aux, counter=counter
            )


def test_counts_are_those_of_the_reference_code() -> None:
    for key, name in (("deeplabv3_r101", "deeplabv3-r101"), ("pspnet_r18", "pspnet-r18")):
        for size, classes in (((512, 1024), 19), ((512, 512), 21)):
            for word, counter in (("official", "cirkd"), ("true", "true")):
                count = Convention(name, classes, size=size, per=1, counter=counter).count()
                assert round(count / 1e9, 2) == COUNTED[key][f"{word}_macs_g_{size[0]}x{size[1]}_{classes}"]


@pytest.mark.parametrize(
    ("printed", "unit", "value", "tolerance"),
    [
        ("61.1M", "M", 61.1e6, 0.05e6),
        ("384.84", "G", 384.84e9, 0.005e9),
        ("2371.7G", "M", 2371.7e9, 0.05e9),
        ("61,118,950", "one", 61118950, 0.5),
        ("70.03 ± 0.13", "one", 70.03, 0.005),
        ("74.6~75.0", "one", 74.8, 0.25),
        ("8%", "one", 8, 0.5),
    ],
)
def test_printed_numbers(printed: str, unit: str, value: float, tolerance: float) -> None:
    assert tables.parse(printed, unit)[:2] == (pytest.approx(value), pytest.approx(tolerance))


# ---- trained runs -----------------------------------------------------------------------------------------------


def trained(place: Path, name: str, method: str | None, miou: float | None, **card: Any) -> Run:
    values: dict[str, Any] = {"student": {"name": "deeplabv3-r18"}, "data": {"name": "cityscapes"}} | card
    final = None if miou is None else {"miou": miou}
    return Run.create(name, Config(), out=place / name, method=method, final=final, status="finished", **values)


def test_runs_are_compared_with_their_row(tmp_path: Path) -> None:
    seeds = [trained(tmp_path, f"kt{i}", "kt", miou) for i, miou in enumerate((0.775, 0.777))]
    far = trained(tmp_path, "plain", None, 0.701)
    result = verified("kt", trained=[*seeds, far])
    kt = one(result, printed="77.98")
    assert (kt["status"], kt["runs"], kt["failed"]) == ("measured", ["kt0", "kt1"], False)
    assert kt["recomputed"] == pytest.approx(77.6) and kt["difference"] == pytest.approx(-0.38)
    plain = one(result, printed="74.21")
    assert (plain["status"], plain["failed"]) == ("differs", True)
    assert {c["status"] for c in claims_of(result) if c["dataset"] != "cityscapes" and c["metric"] == "miou"} == {
        "reported"
    }
    # the second row of that label is another network's
    assert one(result, printed="76.17")["status"] == "reported" and result["unmatched"] == []
    mobile = trained(tmp_path, "mobile", "kt", 0.76, student={"name": "deeplabv3-mv2"})
    assert one(verified("kt", trained=[mobile]), printed="76.17")["status"] == "measured"
    assert one(verified("kt", trained=[far], within=5), printed="74.21")["status"] == "measured"


def test_a_method_is_known_among_its_companions(tmp_path: Path) -> None:
    lad = trained(tmp_path, "lad", "lad+kd", 0.7686, student={"name": "pspnet-r18"})
    result = verified("angular", trained=[lad])
    assert {c["method"] for c in claims_of(result) if c["runs"]} == {"lad"}
    assert {c["split"] for c in claims_of(result) if c["runs"]} == {"val"}
    cwd = trained(tmp_path, "cwd", "kd+cwd+adv", 0.7591, student={"name": "pspnet-r18"})
    assert {c["method"] for c in claims_of(verified("angular", trained=[cwd])) if c["runs"]} == {"cwd"}
    both = trained(tmp_path, "both", "lad+cad", 0.7)
    assert verified("angular", trained=[both])["unmatched"] == [
        "both: nothing is claimed of deeplabv3-r18, lad+cad, cityscapes val (data: ade20k, cityscapes, voc)"
    ]


def test_a_run_without_a_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty has no final mIoU"):
        verified("kt", trained=[trained(tmp_path, "empty", "kt", None)])


# ---- the command ------------------------------------------------------------------------------------------------


def test_lines_fit_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    show_claims(verify())
    show_claims(verify("kt", trained=[trained(tmp_path, "a", "kt", 0.78)]))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= WIDTH == 80
    words = " ".join(out.split())
    assert "T: params 61.1M 61.12M (19) parameters reproduced DeepLabV3-ResNet101" in words
    assert "S: FLOPs 39.2G 39.21G (19) as" in words
    assert "77.98 78.00 kt: +0.02, 1 run" in words
    last = "397 claims: 87 reproduced, 10 mislabelled, 3 unexplained, 2 unchecked, 295 reported; 6"
    assert f"{last} contradictions; 16 claims fail" in words


def test_strict_json_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["verify", "--paper", "kt"]) == 0
    capsys.readouterr()
    file = tmp_path / "claims.json"
    assert cli.run(["verify", "--paper", "kt", "--strict", "--json", "--out", str(file)]) == 6
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result.pop("exit_code") == 6 and result.pop("error").startswith("12 of 51 claims fail")
    assert result == json.loads(file.read_text()) and result["kind"] == "verify" and result["failed"] == 12
    assert err.endswith("kdc: error: 12 of 51 claims fail; without --strict they are only listed\n")
    assert cli.run(["verify", "--paper", "label-assisted", "--strict"]) == 0
    good = paper_of(tmp_path, {"row": "a", "model": "r18", "params": "13.6M", "miou": {"none": "1.0"}})
    assert cli.run(["verify", "--paper", str(good), "--strict"]) == 0


@pytest.mark.parametrize(
    ("row", "table", "said"),
    [
        ({"miou": 74.5}, {}, "tables.0.rows.0.miou"),
        ({"params": 61.1}, {}, "tables.0.rows.0.params: 61.1 must be quoted, as printed"),
        ({"flops": "many"}, {}, "'many' is no number"),
        ({"flop": "1G"}, {}, "tables.0.rows.0.flop: Extra inputs are not permitted"),
        ({"params": "1M"}, {"classes": None}, "row 'a' has params or flops, so its table must say classes"),
        ({"flops": "1G"}, {"crop": None}, "row 'a' has flops, so its table must say size (if printed) or crop"),
        ({"model": "deeplabv3-r19"}, {}, "no model 'deeplabv3-r19'"),
        ({"model": "r19"}, {}, "no model 'r19'"),
        ({"size": "big"}, {}, "size 'big' is not HEIGHTxWIDTH"),
        ({"tolerance": {"speed": 1}}, {}, "tables.0.rows.0.tolerance"),
        ({}, {"rows": []}, "tables.0.rows: List should have at least 1 item"),
    ],
)
def test_a_wrong_file_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], table: dict[str, Any], said: str
) -> None:
    file = paper_of(tmp_path, {"row": "a", "model": "r18", **row}, **table)
    assert cli.run(["verify", "--paper", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err and "mine.yaml" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--paper", "cirk"], "no paper 'cirk'; did you mean 'cirkd'?; there are: aicsd, angular"),
        (["--paper", "none.yaml"], "cannot read none.yaml"),
        (["--trained", "nowhere"], "no run 'nowhere'"),
        (["--within", "-1"], "--within -1: points of mIoU are needed"),
    ],
)
def test_a_wrong_line_gets_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["verify", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


def test_a_file_that_is_no_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("paper: [")
    assert cli.run(["verify", "--paper", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
