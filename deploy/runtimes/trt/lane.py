"""One lane of an engine: a context, a stream and their buffers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Lane:
    """Where an input of one shape lies, and its output: pinned memory of the host, memory of the GPU."""

    shape: tuple[int, ...]
    host_in: np.ndarray
    host_out: np.ndarray
    there_in: int
    there_out: int
    #: starts the network as one CUDA graph, where that was asked for
    launch: Callable[[], None] | None = None
    #: what was captured: it holds the context that the graph needs
    queue: Callable[[int], None] | None = None
