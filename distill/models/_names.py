"""Models by name: the folder is the list of architectures, and each has a list of its backbones."""

import importlib
import pkgutil
from types import ModuleType

from ..errors import UsageError, closest
from ._architecture import Architecture
from ._backbones import ALIASES, BACKBONES, Backbone


def architectures() -> list[str]:
    """Return the names of the architectures: the files of this folder."""
    package = importlib.import_module(str(__package__))
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def names() -> list[str]:
    """Return the names of all models, ``architecture-backbone``."""
    return [f"{arch}-{backbone}" for arch in architectures() for backbone in _head(arch).backbones]


def expand(name: str, arch: str = "deeplabv3") -> str:
    """Return the full name of a model: ``r101`` and ``resnet101`` become ``deeplabv3-r101``.

    Raises:
        UsageError: there is no such model.
    """
    first, _, second = name.strip().lower().rpartition("-")
    if not first and _spelled(arch) not in architectures():
        raise UsageError(
            f"no architecture '{arch}'{closest(arch, architectures())}; there are: {', '.join(architectures())}"
        )
    full = f"{_spelled(first or arch)}-{ALIASES.get(second, second)}"
    accepted = names()
    if full not in accepted and (plain := full.removesuffix("v1b")) in accepted:
        full = plain  # the 7x7 stem is the only one that this architecture has
    if full not in accepted:
        backbones = [*BACKBONES, *ALIASES]
        near = closest(name, [*accepted, *backbones]) or closest(full, accepted)
        raise UsageError(
            f"no model '{name}'; a model is ARCHITECTURE-BACKBONE with {', '.join(architectures())} and "
            f"{', '.join(BACKBONES)}{near}"
        )
    return full


def find(name: str) -> tuple[type[Architecture], Backbone]:
    """Return the architecture and the backbone of a full name."""
    arch, backbone = name.split("-")
    head = _head(arch)
    return head, head.backbones[backbone]


def stride_of(name: str, stride: int | None = None) -> int:
    """Return the output stride of a model: ``stride``, or the one that its architecture was published with."""
    return find(expand(name))[0].stride if stride is None else stride


def _head(arch: str) -> type[Architecture]:
    """Return the class of an architecture.

    Raises:
        UsageError: its file has none.
    """
    head = getattr(_file(arch), "Head", None)
    if not (isinstance(head, type) and issubclass(head, Architecture)):
        raise UsageError(
            f"distill/models/{arch}.py holds no class Head(Architecture); CONTRIBUTING.md shows a whole one, and a "
            "helper's file begins with an underscore"
        )
    return head


def _file(arch: str) -> ModuleType:
    return importlib.import_module(f".{arch}", __package__)


def _spelled(name: str) -> str:
    """Resolve other spellings of an architecture; unknown names come back as they are."""
    name = name.strip().lower().replace("+", "plus")
    return next((arch for arch in architectures() if name in getattr(_file(arch), "ALIASES", ())), name)
