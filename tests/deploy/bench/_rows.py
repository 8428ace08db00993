"""Rows and passports of measurements that never were."""

from typing import Any

from kdc.deploy.bench.latency_record import LatencyRow
from kdc.deploy.bench.protocol import Identity, Input, Warmup
from kdc.deploy.bench.statistics import Percentiles, Ratio
from kdc.deploy.machine.passport import Cpu, Passport


def machine(load: float, cores: int = 2) -> Passport:
    cpu = Cpu("a CPU", cores, cores, [], None, load)
    return Passport("now", "an OS", cpu, 8.0, [], {})


def identity(name: str, **values: Any) -> Identity:
    """What a row says of a network in ONNX Runtime; ``values`` replace the usual ones."""
    usual = {
        "name": name,
        "runtime": "onnxruntime",
        "version": None,
        "provider": "CPUExecutionProvider",
        "nodes_on_cpu": 0,
        "precision": "fp32",
        "tf32": None,
        "head": "logits",
        "input": Input([1, 3, 8, 8], "float32", "NCHW"),
        "file": name,
        "threads": 1,
        "pid": 1,
        "sha256": "",
        "size_mb": 1.0,
    }
    return Identity(**usual | values)


def latency_row(backend: Identity, cv: float = 0.0, n: int = 200, stable: bool = True, **values: Any) -> LatencyRow:
    times = Percentiles(p50=1.0, p90=1.0, p95=1.0, p99=1.0, min=1.0, mean=1.0, cv=cv, n=n)
    warmup = Warmup(first_ms=1.0, runs=10, seconds=1.0, stable=stable, ms=1.0)
    usual = {"images_per_s": 1.0, "warmup": warmup, "ratio": Ratio("a", 1.0, 1.0, 1.0), "parts": None, "on_gpu": None}
    return LatencyRow(backend, times, **usual | values)
