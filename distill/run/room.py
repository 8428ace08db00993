"""Room on the disk: how much a file needs and how much there was, where writing it failed."""

import contextlib
import errno
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import ResourceError
from ..units import file_size


@contextlib.contextmanager
def needing(folder: Path, size: int) -> Iterator[None]:
    """Say what a file needs, where writing it failed for lack of room.

    Native code hides the system's reason, or gives none; so the room that there was is compared with the need.

    Args:
        folder: where the file is written, in the folder that it is for.
        size: bytes that it needs, about.

    Raises:
        ResourceError: there was less room.
    """
    place = folder if folder.is_dir() else folder.parent
    free, most = shutil.disk_usage(place).free, resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EFBIG or -1 < most < size:
            raise ResourceError(
                f"no file may grow beyond {file_size(most)} here, and about {file_size(size)} are needed in "
                f"{folder.parent}: raise the limit (ulimit -f), or choose another place"
            ) from error
        if number in (errno.ENOSPC, errno.EDQUOT) or free < size:
            raise ResourceError(
                f"no space in {folder.parent}: about {file_size(size)} are needed, {file_size(free)} were free; free "
                "some, or choose another place"
            ) from error
        raise
