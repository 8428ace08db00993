"""The values that rebuild a network; they travel in run.json and with every checkpoint and exported file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .preprocess import IMAGENET, Preprocess
from .typed import typed


@dataclass(frozen=True)
class NetworkSpec:
    """What ``models.build`` is called with, beside the seed."""

    name: str = ""
    num_classes: int = 0
    output_stride: int = 8
    aux: bool = True
    dropout: float | None = None
    preprocess: Preprocess = IMAGENET
    in_channels: int = 3
    heads: str = "v1"
    align_corners: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NetworkSpec":
        """Undo ``to_dict``; keys that are missing keep their defaults.

        Raises:
            ValueError: a value of another type.
        """
        known = {each.name: each.type for each in fields(cls) if each.name in values}
        return cls(**{name: typed(values[name], kind, name) for name, kind in known.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "output_stride": self.output_stride,
            "aux": self.aux,
            "dropout": self.dropout,
            "preprocess": self.preprocess.to_dict(),
            # left out where they are as before there was a choice, so that older cards are equal
            **({"in_channels": 4} if self.in_channels == 4 else {}),
            **({} if self.heads == "v1" else {"heads": self.heads}),
            **({} if self.align_corners else {"align_corners": False}),
        }


#: of a run that does not say which network it holds
UNKNOWN = NetworkSpec()
