"""How far two forms of one network may differ."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...distill.errors import UsageError, WeightsError
from ...distill.run.folder import Run
from ...distill.run.records import Record
from ...distill.settings.config import Config

#: of TF32: four roundings, as the ties of FP16 are; and a sum of many
TF32_TIE, _TF32_DIFF = 2**-9, 2**-5


@dataclass(frozen=True)
class Tolerances(Record):
    """What a gate lets pass; None = measured, not limited. Defaults by precision: ``config.Gates``."""

    #: largest ``|d| / max(1, |z|)`` over all logits ``z`` of the reference
    max_diff: float | None = None
    #: least share of the images' pixels with the same class, ties not held against the candidate
    agreement: float = 0.9999
    #: largest loss of mIoU, in points of 100
    miou_drop: float | None = None
    #: a class is as good as the reference's if the reference scores it lower by at most ``tie * max(1, |z|)``
    tie: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no limit with a UsageError: nothing is larger than NaN, so that it lets everything pass."""
        if not 0 <= self.agreement <= 1:
            raise UsageError(
                f"agreement {self.agreement:g} is not accepted: it is a share from 0 to 1, such as 0.99; "
                "set --agreement or gates in the configuration"
            )
        flags = {"max_diff": "gates", "miou_drop": "--max-drop or gates", "tie": "gates"}
        for name, flag in flags.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(
                    f"{name} {value:g} is not accepted: it is a finite number from 0 on; set {flag} in the "
                    "configuration"
                )

    def in_tf32(self) -> "Tolerances":
        """Return what a network may differ by whose products are rounded to TF32, which has the mantissa of FP16."""
        apart = None if self.max_diff is None else max(self.max_diff, _TF32_DIFF)
        return replace(self, max_diff=apart, tie=max(self.tie, TF32_TIE))

    @classmethod
    def read(cls, values: Any, path: Path, cure: str) -> "Tolerances":
        """Take what stands in the file ``path``.

        Raises:
            WeightsError: it says something else; the message names ``cure``.
        """
        names = {each.name for each in fields(cls)}
        try:
            if not isinstance(values, dict) or "agreement" not in values:
                raise UsageError("it holds no tolerances")
            if strange := sorted(values.keys() - names):
                raise UsageError(f"no tolerance is called {strange[0]}; accepted: {', '.join(sorted(names))}")
            return cls(**values)
        except (TypeError, ValueError, UsageError) as error:
            raise WeightsError(f"{path} cannot be read ({error}); {cure}") from error


def tolerances(precision: str, run: Run | None = None, **flags: float | None) -> Tolerances:
    """Return what a file of a precision ("int8+fp16" is read as "int8") may differ by.

    Args:
        precision: of the candidate.
        run: whose configuration's ``gates`` section stands above the defaults.
        flags: fields of ``Tolerances`` that stand above both; None = not set.

    Raises:
        UsageError: a value that is no limit.
    """
    own = run is not None and (run.path / "config.yaml").is_file()
    gates = (run.config if run and own else Config()).gates.model_dump()
    limits = Tolerances(**gates[precision.partition("+")[0]])
    return replace(limits, **{key: value for key, value in flags.items() if value is not None})
