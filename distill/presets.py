"""Published recipes by name: a method with the weights and the optimisation that it was launched with."""

from typing import Any

from .errors import UsageError, closest

#: SGD at 0.02 for 40k iterations: CIRKD's recipe, to which KT changes the weight decay
_CIRKD = {"train.lr": 0.02, "train.weight_decay": 1e-4, "train.iters": 40000, "task.aux_weight": 0.4}
#: Rethinking Knowledge Distillation with Raw Features; its kd of weight 10 is the mean over elements (inferred)
_RETHINKING = {
    "train.lr": 0.01,
    "train.weight_decay": 5e-4,
    "train.iters": 80000,
    "method.kd.reduction": "element",
    "method.kd.kd": 10.0,
}

#: flat settings, as a configuration file would hold them
PRESETS: dict[str, dict[str, Any]] = {
    "cirkd-kd": {"method.name": "kd", "method.kd.kd": 1.0, "method.kd.T": 1.0, **_CIRKD},
    "kt": {"method.name": "kt", **_CIRKD, "train.weight_decay": 5e-4},
    "lad": {"method.name": "lad+kd", **_RETHINKING},
    "cad": {"method.name": "cad+kd", **_RETHINKING},
    "pad": {"method.name": "pad+kd", **_RETHINKING},
}


def preset(name: str) -> dict[str, Any]:
    """Return a copy of the preset's settings.

    Raises:
        UsageError: there is no such preset; the message names the nearest.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset '{name}'{closest(name, PRESETS)}; there are: {', '.join(PRESETS)}")
    return dict(PRESETS[name])
