"""How torch runs a checkpoint: in which memory layout, compiled or not, and in which type of number."""

from dataclasses import dataclass

from ...distill.errors import UsageError, closest

WAYS = ("channels-last", "eager", "compiled")
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class TorchMode:
    """One way to run a network of torch's, written ``WAY`` or ``WAY:PRECISION``, such as ``compiled:bf16``.

    Attributes:
        way: "eager" (torch as it is by default, NCHW), "channels-last" (eager in NHWC, the faster layout of these
            networks on both devices, and so the fair reference) or "compiled" (``torch.compile`` of the latter).
        precision: type of weights and activations: "fp32", "fp16" or "bf16"; the logits leave in float32.
    """

    way: str = "channels-last"
    precision: str = "fp32"

    @classmethod
    def parse(cls, text: str) -> "TorchMode":
        """Read it (UsageError)."""
        way, _, precision = text.partition(":")
        mode = cls(way, precision or "fp32")
        for part, accepted in ((mode.way, WAYS), (mode.precision, PRECISIONS)):
            if part not in accepted:
                raise UsageError(
                    f"torch is run as WAY[:PRECISION], not {text!r}; accepted: {', '.join(WAYS)}; "
                    f"{', '.join(PRECISIONS)}{closest(part, accepted)}"
                )
        return mode

    def __str__(self) -> str:
        """Write it as ``parse`` reads it, "fp32" left out."""
        return self.way if self.precision == "fp32" else f"{self.way}:{self.precision}"
