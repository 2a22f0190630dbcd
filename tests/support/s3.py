"""A real S3 server for tests: ministack in a process of its own, or the one that MLDEPLOY_TEST_S3 names.

MLDEPLOY_TEST_S3=http://KEY:SECRET@host:port points every S3 test at another server (the `ceph` session of
noxfile.py does). Each test has a bucket of its own. Fixtures are taken with
`from tests.support.s3 import bucket, s3_server` or through `pytest_plugins`.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mldeploy.store.ids import new_ulid
from mldeploy.store.objects import MARKER

#: What the environment may say about S3; a test sees what its server says and nothing of the machine's.
SPOILING = ("AWS_", "FSSPEC_S3")


@dataclass(frozen=True)
class Server:
    """A running server. `environ` is what a client needs to use it."""

    endpoint: str
    key: str = "test"
    secret: str = "testsecret"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def through(self, address: str) -> Server:
        """The same behind a proxy at http://host:port."""
        return Server(address, self.key, self.secret)

    def make_bucket(self) -> str:
        """A new bucket; its name."""
        name = f"b-{new_ulid()}"
        self.client().create_bucket(Bucket=name)
        return name

    def make_store(self, bucket: str, prefix: str) -> None:
        """Mark it as a store, without the probe's 3,200 creates (test_s3_open.py has those)."""
        marker = json.dumps({"format": 1, "id": new_ulid(), "created": "2026-01-01T00:00:00Z"})
        self.client().put_object(Bucket=bucket, Key=f"{prefix}/{MARKER}", Body=marker.encode())

    def client(self):  # type: ignore[no-untyped-def] # botocore has no types
        """botocore's own client, for looking at the server from outside our code."""
        return _client(self)


@functools.cache  # half a second each
def _client(server: Server):  # type: ignore[no-untyped-def] # botocore has no types
    from botocore.session import Session

    return Session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        region_name="us-east-1",
    )


def free_port() -> int:
    """A port of 127.0.0.1 that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def ministack(folder: Path) -> Iterator[Server]:
    """A server of one's own, with its data below `folder`; killed at the end."""
    for attempt in range(5):  # another may take the port between our look and its start
        port = free_port()
        with (folder / f"ministack-{attempt}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ministack"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
                env=os.environ | {
                    "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "SERVICES": "s3",
                    "LOG_LEVEL": "WARNING", "S3_PERSIST": "1", "S3_DATA_DIR": str(folder / "data"),
                    "STATE_DIR": str(folder / "state"),
                },
            )  # fmt: skip
        try:
            if _answers(process, port):
                yield Server(f"http://127.0.0.1:{port}")
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError(f"ministack did not start: see {folder}")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    pause, end = threading.Event(), time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/")
                connection.getresponse().read()
                return process.poll() is None
        pause.wait(0.02)
    return False


def given_server(url: str) -> Server:
    """The server that MLDEPLOY_TEST_S3 names."""
    parts = urlsplit(url)
    assert parts.username and parts.password, "MLDEPLOY_TEST_S3 is http://KEY:SECRET@host:port"
    return Server(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.username, parts.password)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this process."""
    given = os.environ.get("MLDEPLOY_TEST_S3")
    if given:
        yield given_server(given)
        return
    with ministack(tmp_path_factory.mktemp("ministack")) as server:
        yield server


@pytest.fixture
def s3_environ(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with the environment set so that s3:// URLs of this test reach it."""
    use(s3_server, monkeypatch)
    return s3_server


@pytest.fixture
def bucket(s3_environ: Server) -> str:
    """A new bucket that s3://{bucket} reaches."""
    return s3_environ.make_bucket()


def use(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment so that S3 is `server` and nothing else."""
    for name in list(os.environ):
        if name.startswith(SPOILING):
            monkeypatch.delenv(name)
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)


@contextlib.contextmanager
def careless(folder: Path) -> Iterator[Server]:
    """A server that ignores `If-None-Match`: rclone's, over `folder`, whose folders are the buckets."""
    binary = Path(sys.executable).with_name("rclone")
    for attempt in range(5):
        port = free_port()
        with (folder.parent / f"rclone-{attempt}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    str(binary), "serve", "s3", "--addr", f"127.0.0.1:{port}",
                    "--auth-key", "test,testsecret", "--config", os.devnull, str(folder),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            if _answers(process, port):
                yield Server(f"http://127.0.0.1:{port}")
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError(f"rclone did not start: see {folder.parent}")
