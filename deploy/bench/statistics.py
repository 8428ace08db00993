"""What latency samples say: percentiles, ratios with their uncertainty, and what disturbs them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..machine.gpu_meter import meter_flags
from ..machine.passport import gpu_flags

#: Fewer samples than this make a p99 of a single run.
ENOUGH = 100
#: A coefficient of variation above this is said.
NOISY = 0.05
RESAMPLES = 1000
#: Fewer rounds than this cannot hold a median with 95 %: it lies outside all of n with a chance of 2^(1 - n).
ENOUGH_ROUNDS = 6


def percentiles(samples: Sequence[Sequence[float]]) -> dict[str, float]:
    """Summarise the turns of one backend: milliseconds, and the coefficient of variation ``cv``."""
    pooled = np.concatenate([np.asarray(turn, np.float64) for turn in samples])
    p50, p90, p95, p99 = (float(v) for v in np.percentile(pooled, (50, 90, 95, 99)))
    mean = float(pooled.mean())
    values = {"p50": p50, "p90": p90, "p95": p95, "p99": p99, "min": float(pooled.min()), "mean": mean}
    return {key: round(v, 4) for key, v in values.items()} | {
        "cv": round(float(pooled.std()) / mean, 4),
        "n": pooled.size,
    }


def parts_summary(parts: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Summarise the parts of a query: median and 95th percentile of each, in milliseconds."""
    pairs = {name: np.percentile(np.asarray(values), (50, 95)) for name, values in parts.items()}
    return {name: {"p50": round(float(p50), 4), "p95": round(float(p95), 4)} for name, (p50, p95) in pairs.items()}


def ratio(first: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> dict[str, float]:
    """How many times faster ``other`` is than ``first``, with a 95 % bootstrap interval.

    The median over rounds of (median of ``first`` / median of ``other``) within the round: what slows a whole round
    down slows both sides of its ratio. Rounds are what is redrawn, since samples of one round are alike.
    """
    speeds = np.array([np.median(a) / np.median(b) for a, b in zip(first, other, strict=True)])
    drawn = np.random.default_rng(0).integers(0, len(speeds), (RESAMPLES, len(speeds)))
    low, high = np.percentile(np.median(speeds[drawn], axis=1), (2.5, 97.5))
    return {"value": round(float(np.median(speeds)), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def flags(
    rows: list[dict[str, Any]],
    before: dict[str, Any],
    after: dict[str, Any],
    device: str,
    rounds: int,
    asked: int | None = None,
) -> list[str]:
    """Say in words what makes these numbers less than sure.

    Args:
        rows: the backends as measured.
        before: the device passport before the backends were opened.
        after: the one after the last round, when they were still open.
        device: "cpu" or "cuda".
        rounds: how often the backends took turns.
        asked: how often they should have, where the time was too short for it; None is as often as they did.
    """
    said = []
    if noisy := _rows_with(rows, "{cv:.0%}", lambda row: row["cv"] > NOISY):
        said.append(f"runs vary by more than {NOISY:.0%} ({noisy}): trust the ratios more than the milliseconds")
    if few := _rows_with(rows, "{n}", lambda row: row["n"] < ENOUGH):
        said.append(f"fewer than {ENOUGH} samples ({few}): p95 and p99 are rough; raise --seconds")
    if restless := _rows_with(rows, "after {warmup[seconds]:.1f} s", lambda row: not row["warmup"]["stable"]):
        said.append(f"not stable to 5% when warm-up ended ({restless})")
    if len(rows) > 1 and rounds < ENOUGH_ROUNDS:
        asked = rounds if asked is None else asked
        cure = " and ".join(["--rounds"] * (asked < ENOUGH_ROUNDS) + ["--seconds"] * (rounds < asked))
        said.append(f"only {rounds} rounds: the interval of the ratio is too narrow for 95 %; raise {cure}")
    said += device_flags(rows, before, after, device, own=len({row.get("pid") for row in rows}))
    if device == "cuda":
        said += meter_flags(rows) + _part_flags(rows)
    return said


def device_flags(
    rows: list[dict[str, Any]], before: dict[str, Any], after: dict[str, Any], device: str, own: int = 0
) -> list[str]:
    """Say what of the machine, and of what really ran on it, any measurement has to say.

    Arguments as ``flags``; ``own`` counts the processes of this measurement that were alive at ``after``.
    """
    said = []
    if strays := _rows_with(rows, "{nodes_on_cpu}", lambda row: row["nodes_on_cpu"] > 0):
        said.append(f"nodes that the GPU provider left to the CPU ({strays})")
    if tf32 := ", ".join(dict.fromkeys(row["name"] for row in rows if row.get("tf32"))):
        said.append(f"float32 products may run as TF32 ({tf32})")
    heads = sorted({row["head"] for row in rows})
    if len(heads) > 1:
        said.append(f"rows end in different heads ({', '.join(heads)}): compare those of one head")
    busy, usable = before["cpu"]["load"], before["cpu"]["cores"]
    if busy is not None and busy > 0.5 * usable:
        said.append(f"the machine was busy before it began: load average {busy} on {usable} cores")
    if device == "cuda":
        said += gpu_flags(after["gpus"], own)
    return said


def _rows_with(rows: list[dict[str, Any]], value: str, when: Callable[[dict[str, Any]], bool]) -> str:
    # a backend has a row for each of its settings
    return ", ".join(dict.fromkeys(f"{row['name']} {value.format(**row)}" for row in rows if when(row)))


def _part_flags(rows: list[dict[str, Any]]) -> list[str]:
    """Say where a GPU waits for its host, as trtexec does."""
    said = []
    for row in rows:
        parts = {name: part["p50"] for name, part in row.get("parts", {}).items()}
        if "compute" not in parts:
            continue
        if parts["enqueue"] > 0.8 * parts["compute"]:
            said.append(
                f"{row['name']}: handing the network over takes the host {parts['enqueue']:.2f} ms of its "
                f"{parts['compute']:.2f}: the host, not the GPU, may be what is measured"
            )
        if parts["h2d"] + parts["d2h"] >= parts["compute"]:
            said.append(f"{row['name']}: transfers take as long as the network: a uint8 argmax head sends less")
    return said
