"""What fits into memory, where a run did not: the largest batch, or else the largest crop, by the probe's estimate."""

import contextlib
import resource

import psutil
import torch

from .. import models
from ..errors import UsageError
from ..settings.config import Config
from .memory import estimate_memory

#: sides of crops are multiples of it
_STEP = 32


def free_memory(config: Config) -> int:
    """Return the bytes that this process may still take, on the GPU where the run uses one."""
    if config.train.device != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    free = int(psutil.virtual_memory().available)
    return free if limit == resource.RLIM_INFINITY else min(free, max(limit - psutil.Process().memory_info().vms, 0))


def what_fits(config: Config, free: int) -> str:
    """Say which ``--batch``, or which ``--crop`` of one image, is estimated to fit into ``free`` bytes."""
    options = config.train
    parts = options.devices * options.nodes * options.accumulate
    share = max(options.batch // parts, 1)
    while share > 1 and _need(config, share) > free:
        share //= 2
    share = min(share, max(options.batch // parts // 2, 1))  # what did not fit is no answer, whatever is estimated
    known = f"{free >> 20} MiB were free; by the estimate of kdc probe"
    if _need(config, share) <= free:
        return f"{known} --batch {share * parts} fits (train.accumulate keeps the images of a step)"

    for tenths in range(9, 0, -1):
        height, width = (max(side * tenths // 10 // _STEP * _STEP, _STEP) for side in options.crop)
        if _need(config.changed(train__crop=(height, width)), 1) <= free:
            return f"{known} --batch {parts} --crop {height}x{width} fits"
    return f"{known} not even one small crop fits: take a smaller network"


def _need(config: Config, images: int) -> int:
    """Return the estimated bytes of a device, those of a teacher that is named by its architecture included."""
    teacher = None
    with contextlib.suppress(UsageError), torch.device("meta"):
        if config.method.name != "none" and config.model.teacher not in (None, "self"):
            teacher = models.build(models.expand(str(config.model.teacher), config.model.arch), 19)
    return estimate_memory(config, images, teacher).total << 20
