"""The devices of a run, by Fabric: CPU or GPU, one process or many."""

import atexit
import contextlib
import os
import signal
import subprocess
import threading
import time

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from .. import console
from ..errors import ResourceError, UsageError
from ..settings.config import Config
from ..threads import asked_threads

#: how the libraries of collectives say that the other end is gone
_GONE = (
    "onnection closed by peer",
    "onnection reset by peer",
    "onnection refused",
    "roken pipe",
    "remote process exited",
)
_CURE = "most often memory ran out: a smaller --batch or --crop needs less; --resume goes on from the last checkpoint"
#: seconds that a process has to end by itself when another one has ended
_PATIENCE = 5


def launch(config: Config) -> Fabric:
    """Start Fabric on the devices of the configuration; with several, this returns in each process.

    Raises:
        UsageError: there is no CUDA, or there are too few devices.
    """
    options = config.train

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: no CUDA device here (torch.cuda.is_available() is False); accepted here: cpu, auto"
        )
    cuda = options.device != "cpu" and torch.cuda.is_available()
    if cuda and options.devices > (count := torch.cuda.device_count()):
        raise UsageError(f"--devices {options.devices}: this node has {console.plural(count, 'CUDA device')}")
    precision = options.precision
    if precision == "16-mixed" and not cuda:
        console.warn("--precision 16-mixed: there is no fp16 training on a CPU; bf16-mixed is used")
        precision = "bf16-mixed"

    # a term that a schedule switches off leaves its adapter without a gradient, which DDP must expect
    ddp = DDPStrategy(find_unused_parameters=True, process_group_backend="nccl" if cuda else "gloo")
    strategy = ddp if options.devices * options.nodes > 1 else "auto"
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        strategy=strategy,
        devices=options.devices,
        num_nodes=options.nodes,
        precision=precision,
    )
    fabric.launch()
    if children := _children(fabric):
        atexit.register(_end, children)
        _watch(children)

    console.muted = not fabric.is_global_zero
    if cuda and options.precision == "32" and torch.backends.cudnn.allow_tf32:
        console.note("precision 32 on CUDA: convolutions may round their inputs to TF32, as is torch's default")
    own_share = max((os.cpu_count() or 1) // (1 if cuda else options.devices), 1)
    torch.set_num_threads(options.threads or asked_threads() or own_share)
    return fabric


def lost_process(fabric: Fabric, error: Exception) -> ResourceError | None:
    """Return what to say where a collective failed since another process of the run has ended; None for all else."""
    if fabric.world_size == 1 or not isinstance(error, RuntimeError):
        return None
    if (dead := _dead(_children(fabric))) is None and not any(word in str(error) for word in _GONE):
        return None
    return ResourceError(f"{dead or 'another process of this run has ended'}; {_CURE}")


def _children(fabric: Fabric) -> list[subprocess.Popen[bytes]]:
    return getattr(fabric.strategy.launcher, "procs", None) or []


def _dead(children: list[subprocess.Popen[bytes]]) -> str | None:
    """Say which of the other processes ended, and how; one that is ending is waited for."""
    for wait in (0.0, 1.0):
        time.sleep(wait)
        for rank, child in enumerate(children, 1):
            if code := child.poll():
                end = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
                return f"process {child.pid} (rank {rank}) of this run ended by {end}"
    return None


def _watch(children: list[subprocess.Popen[bytes]]) -> None:
    """Let Fabric's watch end this process with the code of ``lost_process``, where a collective waits for ever."""

    def give_up() -> None:
        dead = _dead(children)
        time.sleep(_PATIENCE)  # most often this process has seen it, too, and is ending
        os.write(2, f"kdc: error: {dead}; {_CURE}\n".encode())
        for child in children:
            child.kill()
        os._exit(ResourceError.exit_code)

    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            vars(thread)["_terminate_all"] = give_up


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """End the other processes: after an error of this one alone they wait for it in a collective for minutes."""
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
    for child in children:
        child.kill()
