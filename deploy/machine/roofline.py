"""How much of a GPU's arithmetic a network uses: FLOPs per second over the peak of the data sheet."""

from dataclasses import dataclass

from ...distill.run.records import Record

#: dense tera-operations per second of tensor cores (fp32: of the CUDA cores), without structured sparsity, by the name
#: that the driver gives the device; from NVIDIA's data sheets, whose tensor numbers from Ampere on are printed with
#: sparsity and are halved here
_HOPPER_SXM = {"fp32": 67.0, "tf32": 494.5, "fp16": 989.5, "bf16": 989.5, "int8": 1979.0, "fp8": 1979.0}
_A100 = {"fp32": 19.5, "tf32": 156.0, "fp16": 312.0, "bf16": 312.0, "int8": 624.0}
PEAKS: dict[str, tuple[dict[str, float], str]] = {
    "NVIDIA H200": (_HOPPER_SXM, "H200 data sheet, SXM"),
    "NVIDIA H100 80GB HBM3": (_HOPPER_SXM, "H100 data sheet, SXM"),
    "NVIDIA A100-SXM4-40GB": (_A100, "A100 data sheet"),
    "NVIDIA A100-SXM4-80GB": (_A100, "A100 data sheet"),
    "NVIDIA A100-PCIE-40GB": (_A100, "A100 data sheet"),
    "NVIDIA A100 80GB PCIe": (_A100, "A100 data sheet"),
    "NVIDIA L40S": (
        {"fp32": 91.6, "tf32": 183.0, "fp16": 362.05, "bf16": 362.05, "int8": 733.0, "fp8": 733.0},
        "L40S data sheet",
    ),
    "NVIDIA L4": (
        {"fp32": 30.3, "tf32": 60.0, "fp16": 121.0, "bf16": 121.0, "int8": 242.5, "fp8": 242.5},
        "L4 data sheet",
    ),
    "NVIDIA A10": ({"fp32": 31.2, "tf32": 62.5, "fp16": 125.0, "bf16": 125.0, "int8": 250.0}, "A10 data sheet"),
    "Tesla T4": ({"fp32": 8.1, "fp16": 65.0, "int8": 130.0}, "T4 data sheet"),
}


@dataclass(frozen=True)
class Roofline(Record):
    """The arithmetic rate of a query, and its share of the device's peak for that kind of number."""

    tflops: float
    peak_tflops: float
    kind: str
    share: float
    source: str


def share(
    device: str | None, precision: str, tf32: bool | None, macs: int | None, batch: int, ms: float
) -> Roofline | str:
    """Return the arithmetic rate of a query and its share of the device's peak, or why they are not known.

    Args:
        device: the GPU's name.
        precision: of the network: "fp32", "fp16", "bf16", "int8" or "fp8"; a mixed one has no peak.
        tf32: whether float32 products may run as TF32, whose peak is then the one to reach.
        macs: multiply-adds of one image.
        batch: images of a query.
        ms: what the query took.
    """
    peaks, source = PEAKS.get(device or "", ({}, ""))
    kind = "tf32" if precision == "fp32" and tf32 and "tf32" in peaks else precision
    if macs is None:
        return "its multiply-adds are not known"
    if kind not in peaks or ms <= 0:
        return f"no peak of {kind} is known for {device or 'this device'}" if ms > 0 else "it took no time"
    rate = 2 * macs * batch / (ms * 1e-3) / 1e12
    return Roofline(round(rate, 3), peaks[kind], kind, round(rate / peaks[kind], 4), source)
