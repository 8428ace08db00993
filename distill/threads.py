"""How many CPU threads the user asked every program for."""

import os


def asked_threads() -> int | None:
    """Return the number in ``OMP_NUM_THREADS``, None where there is none."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) or None if wanted.isdecimal() else None
