"""Numbers that change over the training steps: weights, temperatures and the learning rate."""

import math
import re
from dataclasses import dataclass

from .errors import UsageError

_CALL = re.compile(r"\s*(linear|step)\s*\(([^(),]+),([^(),]+),([^(),]+)\)\s*")
_ACCEPTED = "a number, linear(a,b,n) or step(a,b,n)"


@dataclass(frozen=True)
class Schedule:
    """A number as a function of the step: ``a`` at first, ``b`` in the end.

    ``constant`` stays at ``a``; ``linear`` goes from ``a`` to ``b`` over ``n`` steps and then stays; ``step`` is ``a``
    before step ``n`` (counted from 0) and ``b`` from there on.
    """

    kind: str
    a: float
    b: float
    n: int

    @classmethod
    def parse(cls, value: "Schedule | float | int | str") -> "Schedule":
        """Read a number, ``"linear(a,b,n)"`` or ``"step(a,b,n)"``.

        Raises:
            UsageError: it is anything else.
        """
        if isinstance(value, Schedule):
            return value
        try:
            if isinstance(value, str) and (call := _CALL.fullmatch(value)):
                kind, a, b, n = call.groups()
                return cls(kind, _finite(a), _finite(b), _steps(n))
            if not isinstance(value, bool):
                return cls("constant", _finite(value), _finite(value), 0)
        except (TypeError, ValueError):
            pass
        raise UsageError(f"schedule {value!r}: accepted are {_ACCEPTED}, for example linear(4,1,1000)")

    def __call__(self, step: int) -> float:
        """Return the value at ``step``, counted from 0."""
        if self.kind == "linear":
            return self.a + (self.b - self.a) * min(step / self.n, 1.0)
        return self.a if self.kind == "constant" or step < self.n else self.b

    @property
    def zero(self) -> bool:
        """Whether the value is 0 at every step."""
        return self.a == 0 and self.b == 0

    def __str__(self) -> str:
        return f"{self.a:g}" if self.kind == "constant" else f"{self.kind}({self.a:g},{self.b:g},{self.n})"


def poly(base: float, step: int, max_steps: int, power: float = 0.9, warmup: int = 0) -> float:
    """Return the learning rate ``base * (1 - step / max_steps) ** power``, ``step`` counted from 0.

    During the first ``warmup`` steps it is also multiplied by ``(step + 1) / (warmup + 1)``.
    """
    rate = base * (1 - min(step / max_steps, 1.0)) ** power
    return rate * (step + 1) / (warmup + 1) if step < warmup else rate


def _finite(value: float | int | str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _steps(text: str) -> int:
    steps = _finite(text)
    if steps < 1 or steps != int(steps):
        raise ValueError(text)
    return int(steps)
