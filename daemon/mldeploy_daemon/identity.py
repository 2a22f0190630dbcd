"""Who this host is: a random id, made once and kept in host.json beside the machine that it was made on.

Rules: a state folder that comes up on another machine, as with a copied image, is another host: two that say
the same id would take each other's place as members and in every report. A machine that has no id of its own
keeps what the file says.
"""

from __future__ import annotations

import contextlib
import logging
from hashlib import blake2b
from pathlib import Path

import msgspec

from mldeploy.errors import DiskError
from mldeploy.store.ids import new_ulid
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.measure_file import MEASURES

logger = logging.getLogger(__name__)
HOST = "host.json"
#: Where a machine keeps its id (machine-id(5)).
MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


class _Kept(msgspec.Struct, frozen=True):
    host: str
    machine: str = ""  # as `this_machine`; "": made by an older daemon, or where the machine had no id


def this_machine() -> str:
    """This machine's id, hashed, for it is not to be shown; "" where it has none."""
    for path in MACHINE_IDS:
        with contextlib.suppress(OSError, UnicodeError):
            text = path.read_text().strip()
            if text and text != "uninitialized":
                return blake2b(f"mldeploy\0{text}".encode(), digest_size=16).hexdigest()
    return ""


def host_id(disk: Disk) -> str:
    """The host's id. Raises DiskError where a new one cannot be kept."""
    machine, kept = this_machine(), _read(disk)
    if kept is None:
        return _new(disk, machine)
    if machine and kept.machine and machine != kept.machine:
        logger.warning("the state folder comes from another machine, whose host id is %s", kept.host)
        disk.remove(str(MEASURES))  # the other host has reported these counts as its own
        return _new(disk, machine)
    if machine and not kept.machine:
        with contextlib.suppress(DiskError):  # it can be noted at the next start as well
            disk.write(HOST, msgspec.json.encode(_Kept(kept.host, machine)))
    return kept.host


def _read(disk: Disk) -> _Kept | None:
    data = disk.read(HOST)
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(data, type=_Kept) if data is not None else None
    return None


def _new(disk: Disk, machine: str) -> str:
    host = new_ulid()
    disk.write(HOST, msgspec.json.encode(_Kept(host, machine)))
    return host
