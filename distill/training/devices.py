"""The devices of a run, by Fabric: CPU or GPU, one process or many."""

import atexit
import contextlib
import os
import subprocess

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from .. import console
from ..errors import UsageError
from ..settings.config import Config
from ..threads import asked_threads


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
    if children := getattr(fabric.strategy.launcher, "procs", None):
        atexit.register(_end, children)

    console.muted = not fabric.is_global_zero
    if cuda and options.precision == "32" and torch.backends.cudnn.allow_tf32:
        console.note("precision 32 on CUDA: convolutions may round their inputs to TF32, as is torch's default")
    own_share = max((os.cpu_count() or 1) // (1 if cuda else options.devices), 1)
    torch.set_num_threads(options.threads or asked_threads() or own_share)
    return fabric


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """End the other processes: after an error of this one alone they wait for it in a collective for minutes."""
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
    for child in children:
        child.kill()
