"""``python -m kdc`` and the ``kdc`` script: the command line, with an answer to signals before it is there."""

import os
import signal
import sys
from typing import Any, NoReturn


def _stop(number: int, frame: Any) -> NoReturn:
    os.write(2, f"kdc: error: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)  # nothing is open yet


def main() -> NoReturn:
    """Run one command; a signal while its code is still being imported ends it with one line, too."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    usual = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}
    for number in usual:
        signal.signal(number, _stop)
    from . import cli

    for number, handler in usual.items():
        signal.signal(number, handler)
    try:
        cli.main()
    except KeyboardInterrupt:  # before or after the command, which waits for it itself
        sys.stderr.write("kdc: error: stopped by SIGINT\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
