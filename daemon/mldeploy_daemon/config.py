"""What the keeper tells the agent and the fronts: one JSON document in the environment variable MLDEPLOYD.

The keeper, which imports the standard library only, writes it; `load` reads it. Unknown keys are ignored, so
that a newer keeper and an older child get along during an upgrade. Every process runs in the state folder,
so paths are relative to it. Left out: the options of the command line and the TOML file (`keeper.py`).
"""

from __future__ import annotations

import os

import msgspec

from mldeploy.core.types import PRODUCTION
from mldeploy.errors import DaemonError

#: The environment variable the document stands in.
VARIABLE = "MLDEPLOYD"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of one process of the daemon. Times are in seconds."""

    store: str  # URL; a plain path has been made absolute
    state: str  # absolute path of the state folder, which is the working folder
    listen: str = "127.0.0.1:8080"  # the real address, also when port 0 was asked for
    listen_fd: int = -1  # fronts: the listening socket
    front: int = 0  # fronts: which one this is, from 0
    fronts: int = 1  # how many there are
    environment: str = PRODUCTION
    labels: dict[str, str] = {}
    confine: str = "best-effort"  # require, best-effort or off
    memory: int = 0  # bytes all workers together may take; 0: no limit
    awake: float = 10.0  # a version used, or loaded, so recently is not put to sleep for another
    idle: float = 300.0  # a previous version that was woken sleeps again after this long without requests
    poll: float = 1.0  # between looks at the log
    report: float = 10.0  # between reports of this host
    drain: float = 0.0  # not ready for this long before stopping
    grace: float = 3600.0  # unused files stay on the disk this long
    hang: float = 60.0  # a worker whose oldest request is older is killed
    load_timeout: float = 300.0  # a worker that is not ready by then is killed
    drain_deadline: float = 30.0  # a worker out of every table is stopped then, whatever is in flight
    log_level: str = "info"
    boot: str = ""  # names this run of the keeper
    ready_fd: int = -1  # agent: the pipe on which it says that the host is ready


def load(environ: dict[str, str] | None = None) -> Config:
    """The configuration in MLDEPLOYD. Raises DaemonError where it is missing or cannot be read."""
    text = (os.environ if environ is None else environ).get(VARIABLE)
    if text is None:
        raise DaemonError(f"{VARIABLE} is not set", "this process is started by mldeployd, not by hand")
    try:
        return msgspec.json.decode(text, type=Config)
    except msgspec.DecodeError as error:
        raise DaemonError(f"{VARIABLE} cannot be read: {error}", "start mldeployd instead") from error
