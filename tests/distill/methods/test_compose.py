"""Composing methods, and their settings."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Composite, Critic, Method, Sizes, compose, info, names
from kdc.distill.output import Output, Tap

K = 5
TAPS = [{"logits": Tap(K, 8), "aux": Tap(K, 8), "dec": Tap(c, 8), "bb": Tap(2 * c, 8)} for c in (4, 6)]
SIZES = Sizes(K, *TAPS, iters=40, seed=0)


def outputs() -> tuple[Output, Output]:
    made = []
    for side, taps in enumerate(TAPS):
        rng = torch.Generator().manual_seed(side)
        maps = {
            k: torch.randn(2, tap.channels, 3, 4, generator=rng).requires_grad_(side == 0) for k, tap in taps.items()
        }
        made.append(Output(maps.pop("logits"), maps.pop("aux"), maps))
    return made[0], made[1]


def batch(step=0):
    return Batch(torch.zeros(2, 3, 24, 32, dtype=torch.uint8), torch.arange(2 * 24 * 32).view(2, 24, 32) % K, step)


def test_terms_are_those_of_the_parts():
    both = compose("kt+kd", SIZES)
    assert list(both.terms) == ["kt.kd", "kt.lt", "kt.ft", "kt.tri", "kd.kd"]
    assert both.taps == ("logits", "aux", "dec")
    values = both.losses(*outputs(), batch())
    alone = compose("kt", SIZES).losses(*outputs(), batch()) | compose("kd", SIZES).losses(*outputs(), batch())
    assert {k: v.item() for k, v in values.items()} == {k: v.item() for k, v in alone.items()}


def test_none_is_plain_training():
    none = compose("none", SIZES)
    assert none.terms == () and none.taps == () and none.losses(*outputs(), batch()) == {} and not none.state_dict()


def test_weights_are_settable_and_schedulable():
    composite = compose("lad+kd", SIZES, {"lad": {"ad": "linear(10,0,4)"}, "kd": {"kd": 2, "reduction": "element"}})
    assert [composite.weight("lad.ad", step) for step in (0, 2, 4, 9)] == [10.0, 5.0, 0.0, 0.0]
    assert composite.weight("kd.kd", 0) == 2.0
    assert composite.describe().terms == {"lad.ad": "linear(10,0,4)", "kd.kd": "2"}


def test_dots_and_nested_names_reach_the_options():
    composite = compose("kt", SIZES, {"kt": {"tailor.train": True, "triplet.axis": "channel"}})
    assert composite.joint_parameters() and composite.methods["kt"].axis == "channel"


def test_zero_weights_switch_off_terms_and_their_networks():
    assert not compose("cwd", SIZES, {"cwd": {"feature": 0}}).state_dict()
    assert compose("cwd", SIZES, {"cwd": {"feature": 0}}).terms == ("cwd.logits",)
    assert compose("kd", SIZES, {"kd": {"kd": 0}}).terms == ()
    assert compose("kd", SIZES, {"kd": {"kd": "step(0,1,5)"}}).terms == ("kd.kd",)


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("kt+ktt", {}, "no method 'ktt'"),
        ("kd+kd", {}, "twice"),
        ("kt", {"kd": {"T": 1}}, "settings for 'kd'"),
        ("kt", {"kt": {"triplet.axes": "w"}}, "did you mean 'triplet_axis'"),
        ("kt", {"kt": {"triplet.axis": "rows"}}, "accepted are w, channel, flat"),
        ("kt", {"kt": {"tailor.train": "maybe"}}, "true or false"),
        ("kd", {"kd": {"T": 0}}, "above 0"),
        ("kd", {"kd": {"T": "warm"}}, "linear"),
        ("kd", {"kd": {"kd": "much"}}, "linear"),
        ("kd", {"kd": {"reduction": 3}}, "a name is needed"),
        ("kd", {"kd": {"reduction": "mean"}}, "accepted are pixel, element, skd"),
        ("kd", {"kd": {"terms": ["kd"]}}, "has no 'terms'"),
        ("lad", {"lad": {"at": "stem"}}, "only aux, bb, dec, logits"),
        ("", {}, "no method ''"),
    ],
)
def test_mistakes_get_one_line(spec, settings, message):
    with pytest.raises(UsageError, match=message) as error:
        compose(spec, SIZES, settings)
    assert "\n" not in str(error.value)


def test_description_is_plain_data():
    composite = compose("kt+cwd", SIZES)
    described = json.loads(json.dumps(asdict(composite.describe())))
    assert [m["name"] for m in described["methods"]] == ["kt", "cwd"]
    adapter = described["methods"][1]["modules"][0]
    assert adapter["shape"].startswith("4 -> 6") and adapter["parameters"] == 24 and adapter["trained"]
    notes = composite.notes()
    assert any("iteration 10 of 40" in note for note in notes) and any("fixed" in note for note in notes)
    json.dumps([vars(info(name)) for name in names()])


class Watching(Method):
    """A method with everything a method may have."""

    weights = {"seen": 1.0}

    def __init__(self, sizes):
        super().__init__(sizes)
        self.critic, self.adapter = nn.Linear(2, 2), nn.Linear(2, 2)
        self.register_buffer("queue", torch.zeros(1))

    def teach(self, teacher, batch):
        self.queue += 1
        return super().teach(teacher, batch)

    def losses(self, student, teacher, batch):
        return {"seen": student.logits.mean()}

    def critics(self):
        return {"d": Critic(self.critic, lr=1e-4)}

    def critic_losses(self, student, teacher, batch):
        return {"d": self.critic.weight.sum()}


def test_composite_passes_everything_on():
    watching = Watching(SIZES)
    composite = Composite(SIZES, {"watching": watching}, {"watching.seen": compose("kd", SIZES).schedules["kd.kd"]})
    shown = composite.teach(lambda images: outputs()[1], batch())
    assert isinstance(shown, Output) and watching.queue == 1
    assert list(composite.critics()) == ["watching.d"]
    assert list(composite.critic_losses(*outputs(), batch())) == ["watching.d"]
    assert [id(p) for p in composite.joint_parameters()] == [id(p) for p in watching.adapter.parameters()]
    assert composite.phases(nn.Identity()) == []
