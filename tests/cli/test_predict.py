"""predict against a real HTTP server that answers as a daemon does."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mldeploy.client import Client
from mldeploy.core.manifest import Signature, Tensor
from mldeploy.errors import PredictionError, UsageError

from .conftest import Ran, World

Cli = Callable[..., Ran]


class Daemon(ThreadingHTTPServer):
    """Answers every prediction with what it was asked; `status` other than 200 with an error."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, Any]] = []
        self.status, self.body = 200, b""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Daemon)
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server.asked.append((self.path, request))
        answer = {"model_name": "churn", "model_version": "1", "id": "r1", "outputs": []}
        body = server.body or json.dumps(answer).encode()
        self.send_response(server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    server = Daemon()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def serving(world: World, cli: Cli, daemon: Daemon) -> Daemon:
    world.publish()
    world.join()
    cli("promote", "churn@1")
    world.report(listen=daemon.address)
    return daemon


SAMPLE = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1.0, 2.0]}]}


def test_without_data_the_packed_sample_goes_to_a_live_host(serving: Daemon, cli: Cli) -> None:
    ran = cli("predict", "churn")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["model_version"] == "1"
    assert f"churn@1 at http://{serving.address}/v2/models/churn/infer" in ran.err
    assert serving.asked == [("/v2/models/churn/infer", SAMPLE)]
    document = cli("predict", "churn", "--json", "--version", "previous", "--data", "-e").document
    assert document["code"] == 1  # `-e` is no file
    document = cli("predict", "churn", "--json", "--version", "1").document
    assert (document["schema"], document["version"], document["request_id"]) == (
        "mldeploy.predict/1",
        "1",
        "r1",
    )
    assert serving.asked[-1][0] == "/v2/models/churn/versions/1/infer"


def test_rows_become_the_one_input(serving: Daemon, cli: Cli, process: Cli, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text("[[1, 2], [3, 4], [5, 6]]")
    assert cli("predict", "churn", "--data", rows).code == 0
    assert serving.asked[-1][1]["inputs"] == [
        {"name": "x", "datatype": "FP64", "shape": [3, 2], "data": [1, 2, 3, 4, 5, 6]}
    ]
    assert process("predict", "churn", "--data", "-", stdin=json.dumps(SAMPLE)).code == 0
    assert serving.asked[-1][1] == SAMPLE
    Client().predict("churn", [(7.0, 8.0)])
    assert serving.asked[-1][1]["inputs"][0]["shape"] == [1, 2]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[[1, 2], [3]]", "the rows are not of one length"),
        ("{", "is not JSON"),
        ("3", "neither a request nor a list of rows"),
    ],
)
def test_data_that_is_none(serving: Daemon, cli: Cli, tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "data"
    path.write_text(text)
    ran = cli("predict", "churn", "--data", path)
    assert (ran.code, error in ran.err, len(ran.err.splitlines())) == (2, True, 2)


def test_rows_do_not_say_enough_for_two_inputs(world: World, cli: Cli) -> None:
    tensors = tuple(Tensor(name=name, datatype="FP64", shape=(-1,)) for name in "ab")
    world.publish(signature=Signature(inputs=tensors, outputs=tensors))
    cli("promote", "churn@1")
    with pytest.raises(UsageError, match="churn takes 2 inputs"):
        Client(world.url).predict("churn", [1, 2], url="http://127.0.0.1:1")


def test_a_whole_request_and_a_url_need_no_store(daemon: Daemon) -> None:
    client = Client("/nowhere/at/all")
    answer = client.predict("churn", SAMPLE, url=f"http://{daemon.address}")
    assert (answer.version, answer.response["model_name"]) == ("1", "churn")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999", "http://[::1", "ftp://here", "127.0.0.1:80", "http://here/ü"]
)
def test_an_address_that_is_none(serving: Daemon, cli: Cli, url: str) -> None:
    ran = cli("predict", "churn", "--url", url)
    assert (ran.code, "is not the address of a daemon" in ran.err) == (2, True), ran


def test_what_a_daemon_refuses_is_told_in_its_own_words(serving: Daemon, cli: Cli) -> None:
    serving.status, serving.body = 400, b'{"error": "x: expected FP64"}'
    ran = cli("predict", "churn")
    assert (ran.code, f"{serving.address} answered 400: x: expected FP64" in ran.err) == (1, True)
    serving.status, serving.body = 200, b"<html>"
    assert "answered 200: <html>" in cli("predict", "churn").err
    with pytest.raises(PredictionError, match="did not answer"):
        Client("/nowhere").predict("churn", SAMPLE, url="http://127.0.0.1:9", timeout=5)
    assert cli("predict", "churn", "--url", "ftp://x").code == 2
    assert cli("predict", "churn", "--version", "7").code == 1
    assert cli("predict", "churn", "--version", "candidate").code == 1
    assert cli("predict", "churn", "--version", "newest").code == 2


def test_data_that_is_not_there(serving: Daemon, cli: Cli) -> None:
    ran = cli("predict", "churn", "--data", "nofile")
    assert (ran.code, "there is no nofile" in ran.err) == (1, True)
    assert cli("predict", "churn", "--data", ".").code == 2


def test_the_curl_line_does_the_same(serving: Daemon, cli: Cli) -> None:
    line = cli("predict", "churn", "--curl").out.strip()
    assert serving.asked == []
    assert shlex.split(line)[0] == "curl"
    assert cli("predict", "churn", "--curl", "--json").document["curl"] == line
    assert "--max-time" not in line
    limited = cli("predict", "churn", "--curl", "--timeout", "1m30s").out
    assert "curl -sS --max-time 90 -H" in limited
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["model_version"] == "1"
    assert serving.asked == [("/v2/models/churn/infer", SAMPLE)]
