"""run.json as records: written and read again, old and partial files too."""

import json

from kdc.distill.network_spec import UNKNOWN, NetworkSpec
from kdc.distill.preprocess import BGR_MEAN
from kdc.distill.run.card import DataCard, FinalScores, RunCard, TeacherCard, TeacherCheck

SPEC = NetworkSpec("pspnet-r18", 19, 16, aux=False, dropout=0.1, preprocess=BGR_MEAN, in_channels=4, heads="v2")


def through_json(values: dict[str, object]) -> dict[str, object]:
    return json.loads(json.dumps(values))


def test_parts_come_back_from_json_as_they_were() -> None:
    check = TeacherCheck(0.5, 0.1, 16)
    trained = TeacherCard("r18", SPEC, source="run t", file="/t.safetensors", sha256="0", run="/t", check=check)
    untrained = TeacherCard("r18", SPEC, source="a phase of this run", trained=False, start="imagenet")
    data = DataCard("streets", "/streets", {"classes": 19}, ["road"], [[0, 0, 0]], 1, (36, 60), 8, 4, "f", ["small"])
    assert NetworkSpec.from_dict(through_json(SPEC.to_dict())) == SPEC
    for card in (trained, untrained):
        assert TeacherCard.from_dict(through_json(card.to_dict())) == card
    assert DataCard.from_dict(through_json(data.to_dict())) == data
    assert list(untrained.to_dict()) == ["name", "spec", "start", "trained", "file", "sha256", "run", "source"]
    assert list(trained.to_dict()) == ["name", "spec", "file", "sha256", "run", "source", "check"]


def test_missing_and_unknown_keys_are_no_error() -> None:
    empty = RunCard.from_dict({})
    assert empty == RunCard() and empty.student == UNKNOWN and empty.teacher is None and empty.miou is None
    values = {"status": "finished", "teacher": {"name": "r18", "new": 1}, "data": {"size": [30, 60]}, "later": {}}
    card = RunCard.from_dict(values | {"final": {"miou": 0.25, "more": []}, "method": None})
    assert card.teacher == TeacherCard("r18") and card.data == DataCard(size=(30, 60)) and card.method is None
    assert card.final == FinalScores(miou=0.25) and card.miou == 0.25
