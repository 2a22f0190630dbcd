"""Where libraries put temporary files and caches: a folder that belongs to one process.

Standard library only: boot.py calls it before there is anything else. A cache is code to who loads it (numba
unpickles its own), so no two models share one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

_VARIABLES = ("TMPDIR", "HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")


def use_scratch(folder: str) -> None:
    """From now on they go to `folder`, also those of libraries that were imported before."""
    path = str(Path(folder).absolute())
    for name in _VARIABLES:
        os.environ[name] = path
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.tempdir = None  # it remembers where it was
    numba: Any = sys.modules.get("numba.core.config")
    if numba is not None:
        numba.reload_config()
