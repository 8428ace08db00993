"""The distillation methods, one file each: found by name, and composed.

A new method is one file: a subclass of `Method` with its terms' default weights, its hyper-parameters as keyword
defaults, and `losses`.
"""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..errors import UsageError, closest
from ..schedule import Schedule
from ._method import Critic, Method, Phase, Sizes, hyphen

if TYPE_CHECKING:
    from ..output import Output


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a method before it is built."""

    name: str
    summary: str
    paper: str
    taps: list[str]
    #: default weights
    terms: dict[str, float]
    #: hyper-parameters with their defaults
    options: dict[str, Any]
    assisted: bool
    differences: list[str]
    description: str


@dataclass(frozen=True)
class BuiltModule:
    """A network that a method brings along."""

    name: str
    shape: str
    parameters: int
    trained: bool
    critic: bool

    def __str__(self) -> str:
        trained = "trained against the student" if self.critic else "trained with the student"
        return f"{self.name} {self.shape}, {self.parameters:,} parameters, {trained if self.trained else 'fixed'}"


@dataclass(frozen=True)
class BuiltMethod(MethodInfo):
    """A method once it is built, with the taps that it reads."""

    modules: list[BuiltModule]
    notes: list[str]


@dataclass(frozen=True)
class Description:
    """A composition: the taps that it reads, its terms with their weights, and its methods."""

    taps: list[str]
    terms: dict[str, str]
    methods: list[BuiltMethod]


class Composite(Method):
    """Several methods at once; its terms are called ``method.term``, and it is a method itself."""

    def __init__(self, sizes: Sizes, methods: Mapping[str, Method], weights: Mapping[str, Schedule]) -> None:
        super().__init__(sizes)
        self.methods = nn.ModuleDict(methods)
        self.schedules = {term: schedule for term, schedule in weights.items() if not schedule.zero}
        self.terms = tuple(self.schedules)
        self.taps = tuple(dict.fromkeys(tap for method in methods.values() for tap in method.taps))
        changed = [name for name, method in methods.items() if type(method).teach is not Method.teach]
        if len(changed) > 1:
            raise UsageError(f"{' and '.join(changed)} cannot be composed: each decides what the teacher is shown")
        self._teaches = changed[0] if changed else None

    def _parts(self) -> list[tuple[str, Method]]:
        return [(name, method) for name, method in self.methods.items() if isinstance(method, Method)]

    def weight(self, term: str, step: int) -> float:
        """Return the weight of ``method.term`` at ``step``, counted from 0."""
        return self.schedules[term](step)

    def phases(self, teacher: nn.Module) -> list[Phase]:
        phases = []
        for name, method in self._parts():
            for phase in method.phases(teacher):
                phase.name = f"{name}.{phase.name}"
                phases.append(phase)
        return phases

    def teach(self, teacher: Callable[[Tensor], "Output"], batch: Batch) -> "Output":
        part = dict(self._parts()).get(self._teaches or "")
        return part.teach(teacher, batch) if part else super().teach(teacher, batch)

    def remember(self, teacher: "Output", batch: Batch) -> None:
        with torch.no_grad(), torch.autocast(batch.labels.device.type, enabled=False):
            for _, method in self._parts():
                method.remember(teacher, batch)

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        values = {
            f"{name}.{term}": value
            for name, method in self._parts()
            for term, value in method(student, teacher, batch).items()
        }
        return {term: values[term] for term in self.terms}

    @torch.no_grad()
    def magnitudes(self, student: "Output", teacher: "Output") -> dict[str, dict[str, float]]:
        """Return, by method that compares features, their mean norms per image and the weight of the product.

        ``m`` of the teacher, ``n`` of the student behind its adapter, ``mn/N`` with N the elements of a feature: the
        weight that a plain squared distance gives to the angle (Rethinking KD with Raw Features, equation 3, figure 2).
        """
        magnitudes = {}
        for name, method in self._parts():
            if (pair := method.compared(student, teacher)) is not None:
                n, m = (x.flatten(1).square().sum(1).sqrt() for x in pair)
                product = (m * n).mean() / pair[0][0].numel()
                magnitudes[name] = {"m": m.mean().item(), "n": n.mean().item(), "mn/N": product.item()}
        return magnitudes

    def critics(self) -> dict[str, Critic]:
        return {f"{name}.{key}": critic for name, method in self._parts() for key, critic in method.critics().items()}

    def critic_losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        with torch.autocast(batch.labels.device.type, enabled=False):
            return {
                f"{name}.{key}": value
                for name, method in self._parts()
                for key, value in method.critic_losses(student, teacher, batch).items()
            }

    def joint_parameters(self) -> list[nn.Parameter]:
        return [parameter for _, method in self._parts() for parameter in method.joint_parameters()]

    def idle_parameters(self, step: int) -> list[nn.Parameter]:
        return [parameter for _, method in self._parts() for parameter in method.idle_parameters(step)]

    def phases_at(self, step: int) -> dict[str, str]:
        """Return the phase that each method is in, of those that change."""
        phases = {name: method.phase_at(step) for name, method in self._parts()}
        return {name: phase for name, phase in phases.items() if phase is not None}

    def local_buffers(self) -> list[str]:
        return [f"methods.{name}.{buffer}" for name, method in self._parts() for buffer in method.local_buffers()]

    def apart(self) -> list[str]:
        """Return the names of the tensors that are not synchronised with the student: critics', and local buffers."""
        modules = {id(m) for critic in self.critics().values() for m in critic.module.modules()}
        critics = [name for name, module in self.named_modules() if id(module) in modules]
        tensors = [*self.named_parameters(), *self.named_buffers()]
        return [n for n, _ in tensors if n.rpartition(".")[0] in critics] + self.local_buffers()

    def notes(self) -> list[str]:
        notes = []
        for name, method in self._parts():
            notes += [f"{name}: {module}" for module in _modules(method)]
            notes += [f"{name}: {note}" for note in method.notes()]
        return notes

    def warnings(self) -> list[str]:
        return [f"{name}: {line}" for name, method in self._parts() for line in method.warnings()]

    def describe(self) -> Description:
        """Return the facts about the composition, ready for JSON by ``asdict``."""
        methods = [
            BuiltMethod(
                **vars(replace(info(name), taps=list(method.taps))), modules=_modules(method), notes=method.notes()
            )
            for name, method in self._parts()
        ]
        return Description(list(self.taps), {term: str(weight) for term, weight in self.schedules.items()}, methods)


def names() -> list[str]:
    """Return the names of all methods: their files', with hyphens."""
    return sorted(hyphen(m.name) for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> type[Method]:
    """Return the method class of that name, hyphen or underscore.

    Raises:
        UsageError: there is no such method, and the message names the nearest; or its file holds none.
    """
    name = hyphen(name)
    if name not in names():
        raise UsageError(f"no method '{name}'{closest(name, names())}; there are: {', '.join(names())}, and none")
    module = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    for thing in vars(module).values():
        if inspect.isclass(thing) and issubclass(thing, Method) and thing.__module__ == module.__name__:
            return thing
    raise UsageError(
        f"distill/methods/{name.replace('-', '_')}.py holds no subclass of Method; CONTRIBUTING.md shows a whole one, "
        "and a helper's file begins with an underscore"
    )


def assisted(spec: str) -> bool:
    """Return whether a method of ``spec`` shows its teacher the label as a fourth channel."""
    return spec.strip() != "none" and any(load(part.strip()).assisted for part in spec.split("+"))


def options(method: type[Method]) -> dict[str, Any]:
    """Return the method's hyper-parameters with their defaults."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "terms"}


def info(name: str) -> MethodInfo:
    """Return the facts about a method before it is built."""
    method = load(name)
    description = inspect.getdoc(method) or ""
    return MethodInfo(
        name=hyphen(name),
        summary=description.partition("\n")[0],
        paper=method.paper,
        taps=list(method.taps),
        terms=dict(method.weights),
        options=options(method),
        assisted=method.assisted,
        differences=list(method.differences),
        description=description,
    )


def compose(spec: str, sizes: Sizes, settings: Mapping[str, Mapping[str, Any]] | None = None) -> Composite:
    """Build the methods of ``spec``: ``"kt"``, ``"lad+kd"``, or ``"none"`` for plain training.

    Args:
        spec: names joined by ``+``.
        sizes: of the two networks and the run.
        settings: by method; a key that is a term sets its weight (number or schedule), any other is a hyper-parameter,
            dots standing for underscores. Terms whose weight is 0 at every step are off: neither built nor computed.

    Raises:
        UsageError: an unknown method, key or value, or a network without a tap that is read.
    """
    parts = [hyphen(part.strip()) for part in spec.split("+")] if spec.strip() != "none" else []
    by_method = {hyphen(name): values for name, values in (settings or {}).items()}
    if len(set(parts)) < len(parts):
        raise UsageError(f"method '{spec}' names a method twice")
    if stray := [name for name in by_method if name not in parts]:
        raise UsageError(f"settings for '{stray[0]}' were given, but the method is '{spec}'")

    methods: dict[str, Method] = {}
    weights: dict[str, Schedule] = {}
    for name in parts:
        cls = load(name)
        own = {term: Schedule.parse(weight) for term, weight in cls.weights.items()}

        keywords = {}
        for key, value in by_method.get(name, {}).items():
            if key in own:
                own[key] = Schedule.parse(value)
                if min(own[key].a, own[key].b) < 0:
                    raise UsageError(f"method {name}: the weight {key}={value} is negative; 0 switches a term off")
            else:
                option, value = _option(name, cls, key, value)
                keywords[option] = value

        on = [term for term, weight in own.items() if not weight.zero]
        if on:
            methods[name] = cls(sizes, terms=on, **keywords)
            weights |= {f"{name}.{term}": own[term] for term in on}
    return Composite(sizes, methods, weights)


def choose(option: str, value: str, accepted: Collection[str]) -> str:
    """Return ``value`` if it is accepted.

    Raises:
        UsageError: it is not.
    """
    if value not in accepted:
        raise UsageError(f"{option}={value!r}: accepted are {', '.join(accepted)}{closest(str(value), accepted)}")
    return value


def _option(name: str, cls: type[Method], key: str, value: Any) -> tuple[str, Any]:
    defaults = options(cls)
    option = key.replace(".", "_").replace("-", "_")
    if option not in defaults:
        accepted = [*cls.weights, *defaults]
        raise UsageError(f"method {name} has no '{key}'{closest(key, accepted)}; accepted are: {', '.join(accepted)}")
    default = defaults[option]
    if isinstance(default, bool) != isinstance(value, bool) or (
        isinstance(default, str) and not isinstance(value, str)
    ):
        kind = {bool: "true or false", str: "a name"}.get(type(default), "a number")
        raise UsageError(f"method {name}: {key}={value!r}, but {kind} is needed, such as {str(default).lower()}")
    annotation = inspect.signature(cls).parameters[option].annotation
    kinds = (type(default),) if annotation is inspect.Parameter.empty else get_args(annotation) or (annotation,)
    return option, value if str in kinds or bool in kinds else _number(f"method {name}: {key}", value, kinds)


def _number(what: str, value: Any, kinds: Collection[type]) -> float | int:
    """Read an option that is a number; YAML takes 1e-4, without a point, for a text.

    Raises:
        UsageError: it is no number, not finite, negative, a rate of 0, or a count that is not whole.
    """
    try:
        number = value if isinstance(value, int) and not isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{what}={value!r}, but a number is needed, such as 0.5 or 1e-4") from None
    if not math.isfinite(number) or number < 0 or (number == 0 and what.endswith("lr")):
        least = "above 0" if what.endswith("lr") else "of at least 0"
        raise UsageError(f"{what}={value!r}: a finite number {least} is needed")
    if float in kinds:
        return number if int in kinds else float(number)
    if number != int(number):
        raise UsageError(f"{what}={value!r}: a whole number is needed")
    return int(number)


def _modules(method: Method) -> list[BuiltModule]:
    critics = {id(critic.module) for critic in method.critics().values()}
    return [
        BuiltModule(
            name=key,
            shape=getattr(module, "shape", type(module).__name__),
            parameters=sum(p.numel() for p in module.parameters()),
            trained=any(p.requires_grad for p in module.parameters()),
            critic=id(module) in critics,
        )
        for key, module in method.named_children()
    ]
