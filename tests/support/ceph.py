"""Ceph with its S3 gateway on this machine, for the tests: one monitor, manager, object daemon and gateway.

    python -m tests.support.ceph COMMAND …     runs COMMAND with MLDEPLOY_TEST_S3 naming the gateway

Everything listens on 127.0.0.1, lives in a temporary folder (24 GB sparse) and is ended with the command. The
programs are Debian's; where they are missing and we are root, apt-get installs them. `tcp_nodelay` is set
because the gateway's answers take 44 ms without it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.support.s3 import Server, free_port

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-mgr", "ceph-base", "ceph-common")
PROGRAMS = (
    "radosgw",
    "radosgw-admin",
    "ceph-mon",
    "ceph-osd",
    "ceph-mgr",
    "ceph",
    "ceph-authtool",
    "monmaptool",
)
KEY, SECRET = "conformance", "conformance-secret"
#: Users with no rights of their own, for the policies of docs/s3.md; their access keys are their names.
ROLES = ("publisher", "operator", "host", "viewer")

CONF = """\
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = v1:127.0.0.1:{mon}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr2 = false
keyring = {folder}/keyring
run_dir = {folder}
admin_socket = {folder}/$name.asok
pid_file = {folder}/$name.pid
log_file = {folder}/$name.log
auth_allow_insecure_global_id_reclaim = true
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
mon_data = {folder}/mon
[osd]
osd_data = {folder}/osd
osd_objectstore = bluestore
bluestore_block_size = 25769803776
osd_memory_target = 1073741824
[mgr]
mgr_data = {folder}/mgr
[client.rgw.a]
rgw_frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
rgw_data = {folder}/rgw
rgw_dns_name = localhost
"""
#: What each daemon may do inside the cluster.
RIGHTS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "client.rgw.a": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "mgr.a": ("mon", "allow *", "osd", "allow *"),
    "osd.0": ("mon", "allow *", "osd", "allow *"),
}


def install() -> None:
    """See that the programs are there; RuntimeError where they are not and cannot be installed."""
    if all(shutil.which(name) for name in PROGRAMS):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(f"install Debian's {' '.join(PACKAGES)}, or run this as root")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", *command], check=True, env=env, stdout=sys.stderr)


class Cluster:
    """The daemons in `folder`; `server` is the gateway once `start` has returned."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "ceph.conf"
        self.mon, gateway = free_port(), free_port()
        self.server = Server(f"http://127.0.0.1:{gateway}", KEY, SECRET)
        self.gateway = gateway
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("mon", "osd", "mgr", "rgw"):
            (self.folder / name).mkdir()
        fsid = str(uuid.uuid4())
        self.conf.write_text(CONF.format(fsid=fsid, mon=self.mon, gateway=self.gateway, folder=self.folder))
        self._keys()
        self._monitor(fsid)
        self._daemon("ceph-mgr", "-i", "a")
        self._object_daemon()
        self._daemon("radosgw", "-n", "client.rgw.a")
        self._wait(self._answers, "the gateway answers")
        for name in (KEY, *ROLES):
            names = ("--uid", name, "--display-name", name, "--access-key", name, "--secret", SECRET)
            self._run("radosgw-admin", "user", "create", *names)

    def stop(self) -> None:
        for process in reversed(self.daemons):
            process.terminate()
        for process in self.daemons:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _keys(self) -> None:
        keyring = str(self.folder / "keyring")
        for number, (name, caps) in enumerate(RIGHTS.items()):
            pairs = zip(caps[::2], caps[1::2], strict=True)
            flags = [word for pair in pairs for word in ("--cap", *pair)]
            create = ["-C"] if number == 0 else []
            self._run("ceph-authtool", *create, keyring, "--gen-key", "-n", name, *flags, conf=False)

    def _monitor(self, fsid: str) -> None:
        monmap = str(self.folder / "monmap")
        address = f"v1:127.0.0.1:{self.mon}"
        self._run("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, monmap, conf=False)
        keyring = str(self.folder / "keyring")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._daemon("ceph-mon", "-i", "a")
        self._run("ceph", "--connect-timeout", "60", "mon", "stat")

    def _object_daemon(self) -> None:
        number = str(uuid.uuid4())
        self._run("ceph", "osd", "create", number)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", number)
        self._daemon("ceph-osd", "-i", "0")
        self._wait(lambda: "1 up" in self._run("ceph", "osd", "stat"), "the object daemon is up")

    def _run(self, program: str, *arguments: str, conf: bool = True) -> str:
        command = [program, *(("-c", str(self.conf)) if conf else ()), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=180)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    def _daemon(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.out").open("wb") as log:
            command = [program, "-c", str(self.conf), *arguments, "-f"]
            self.daemons.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def _answers(self) -> bool:
        from http.client import HTTPConnection, HTTPException

        connection = HTTPConnection("127.0.0.1", self.gateway, timeout=5)
        with contextlib.suppress(OSError, HTTPException), contextlib.closing(connection):
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        return False

    def _wait(self, ready: object, what: str) -> None:
        assert callable(ready)
        end, pause = time.monotonic() + 180, threading.Event()
        while not ready():
            dead = [str(one.args) for one in self.daemons if one.poll() is not None]
            if dead or time.monotonic() > end:
                tail = "".join(path.read_text()[-1000:] for path in self.folder.glob("*.out"))
                raise RuntimeError(f"not within 180 s: {what}; ended: {dead}\n{tail}")
            pause.wait(0.1)


@contextlib.contextmanager
def cluster() -> Iterator[Server]:
    """A gateway for as long as the context lasts."""
    folder = Path(tempfile.mkdtemp(prefix="ceph-"))
    made = Cluster(folder)
    try:
        made.start()
        yield made.server
    finally:
        made.stop()
        shutil.rmtree(folder)


def main(*command: str) -> int:
    install()
    with cluster() as server:
        host = server.endpoint.removeprefix("http://")
        env = os.environ | {"MLDEPLOY_TEST_S3": f"http://{server.key}:{server.secret}@{host}"}
        return subprocess.run(command, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
