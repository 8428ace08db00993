"""The process in which the doctor imports what may crash; see ``kdc.deploy.child``."""

import importlib

from ...distill.errors import one_line
from ..child import serve


def load(request: dict[str, str]) -> dict[str, str]:
    """Import ``request["module"]`` and call its ``request["function"]``, if one is named; the answer says the fault."""
    try:
        module = importlib.import_module(request["module"])
        if request["function"]:
            getattr(module, request["function"])()
    except Exception as error:  # noqa: BLE001 - whatever a foreign module raises is the answer
        return {"fault": f"{type(error).__name__}: {one_line(error)}"}
    return {"fault": ""}


if __name__ == "__main__":
    serve(load)
