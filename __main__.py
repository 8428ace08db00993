"""``python -m kdc``: the same command line as the ``kdc`` script."""

from .cli import main

if __name__ == "__main__":
    main()
