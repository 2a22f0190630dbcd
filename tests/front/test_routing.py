"""What is asked for, and who answers."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def served(module_host, build):
    """Model m: stable 2, candidate 3 without a worker, previous 1; model idle: nothing serves."""
    host = module_host
    one, two = host.worker("w1", 1), host.worker("w2", 2)
    host.write(
        m=build.model(
            {
                1: build.version(one, state="ready"),
                2: build.version(two),
                3: build.version(state="loading", reason="loading for 3 s"),
            },
            stable=2, candidate=3, previous=1, share=5_000, salt="r1",
        ),
        idle=build.model({}, reason="version 1 failed: its samples differ"),
    )  # fmt: skip
    host.front()
    return host


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/v2/models/m/infer", "2"),
        ("/v2/models/m/infer/", "2"),
        ("/v2/models/%6d/infer?x=1", "2"),
        ("/v2/models/m/versions/1/infer", "1"),
        ("/v2/models/m/versions/previous/infer", "1"),
        ("/v2/models/m/versions/stable/infer", "2"),
    ],
)
def test_infer_answers_from_the_version_asked_for(served, path, version):
    status, headers, body = served.infer(path)
    assert (status, body["model_version"], headers["mldeploy-version"]) == (200, version, f"m@{version}")
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"]


def test_request_ids_are_echoed_or_made(served):
    assert served.infer(x_request_id="abc-1")[1]["x-request-id"] == "abc-1"
    made = {served.infer()[1]["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    long = served.infer(x_request_id="x" * 129)[1]["x-request-id"]
    assert long != "x" * 129
    assert served.ask("GET", "/nowhere", headers={"x-request-id": "q"})[1]["x-request-id"] == "q"


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/v2/models/nobody/infer", 404, "no model 'nobody'"),
        ("GET", "/v2/models/m%2Fready", 404, "no model 'm/ready'"),
        ("POST", "/v2/models/m/versions/9/infer", 404, "no version '9'"),
        ("POST", "/v2/models/m/versions/02/infer", 404, "no version '02'"),
        ("POST", "/v2/models/idle/versions/candidate/infer", 404, "no candidate version"),
        ("POST", "/v2/models/m/versions/3/infer", 503, "loading for 3 s"),
        ("POST", "/v2/models/idle/infer", 503, "its samples differ"),
        ("GET", "/v2/models/nobody", 404, "no model"),
        ("GET", "/v2/models/idle", 503, "its samples differ"),
        ("GET", "/v2/models/m/versions/3/ready", 503, "loading for 3 s"),
        ("GET", "/v2/models/idle/ready", 503, "its samples differ"),
        ("GET", "/v2/models/m/infer", 405, "POST"),
        ("POST", "/v2/health/live", 405, "GET"),
        ("DELETE", "/v2/models/m", 405, "GET"),
        ("OPTIONS", "/v2", 405, "GET"),
        ("GET", "/favicon.ico", 404, "nothing at"),
        ("GET", "/v2/models/../../etc/passwd", 404, "nothing at"),
        ("POST", "/v2/repository/models/m/load", 400, "managed from the store"),
        ("POST", "/v2/repository/models/m/unload", 400, "managed from the store"),
    ],
)
def test_errors_are_json_that_says_why(served, method, path, status, says):
    found, headers, body = served.ask(method, path, b"{}" if method == "POST" else None)
    assert found == status
    assert headers["content-type"] == "application/json"
    assert says in body["error"]
    if status == 405:
        assert headers["allow"] in ("POST", "GET, HEAD")
    assert ("retry-after" in headers) == (status == 503)


def test_workers_errors_pass_through(served):
    status, headers, body = served.infer(body={"do": "status", "status": 400})
    assert (status, body, headers["mldeploy-version"]) == (400, {"error": "as asked"}, "m@2")


def test_health_answers_satisfy_every_client(served):
    assert served.ask("GET", "/v2/health/live")[::2] == (200, {"live": True, "ready": True})
    assert served.ask("GET", "/v2/health/ready")[::2] == (200, {"live": True, "ready": True})
    assert served.ask("GET", "/v2/models/m/ready")[::2] == (200, {"name": "m", "ready": True})
    assert served.ask("GET", "/v2/models/m/versions/1/ready")[0] == 200
    name = served.ask("GET", "/v2")[2]
    assert name["name"] == "mldeploy"
    assert isinstance(name["extensions"], list)


def test_not_ready_before_the_table_says_so(host, build):
    host.front()  # no table at all
    assert host.ask("GET", "/v2/health/ready")[0] == 503
    assert host.ask("GET", "/v2/health/live")[::2] == (200, {"live": True, "ready": False})
    assert host.infer()[0] == 404
    host.publish(ready=False)
    assert host.ask("GET", "/v2/health/ready")[2]["error"]
    host.publish(ready=True)
    assert host.ask("GET", "/v2/health/ready")[0] == 200


def test_metadata_and_index(served):
    body = served.ask("GET", "/v2/models/m")[2]
    assert body == {
        "name": "m",
        "versions": ["1", "2", "3"],
        "platform": "mldeploy-python",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1]}],
    }
    assert served.ask("GET", "/v2/models/m/versions/1")[1]["mldeploy-version"] == "m@1"
    every = served.ask("POST", "/v2/repository/index", b"")[2]
    assert [(e["name"], e["version"], e["state"]) for e in every] == [
        ("idle", "", "UNAVAILABLE"), ("m", "1", "READY"), ("m", "2", "READY"), ("m", "3", "LOADING"),
    ]  # fmt: skip
    ready = served.ask("POST", "/v2/repository/index", {"ready": True})[2]
    assert [e["version"] for e in ready] == ["1", "2"]
    for bad in (b"[", b'{"ready":"\xff"}', b'{"a":' + b"[" * 5_000):
        assert served.ask("POST", "/v2/repository/index", bad)[0] == 400


def test_page_is_html_for_people_and_json_for_others(served):
    assert served.ask("GET", "/")[2] == {"status": "alive"}
    status, headers, text = served.ask("GET", "/", headers={"accept": "text/html,*/*"})
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "loading for 3 s" in text
    assert "50%" in text


def test_page_escapes_what_it_shows(host, build):
    host.write(m=build.model({}, reason="<script>alert(1)</script>"))
    host.front()
    text = host.ask("GET", "/", headers={"accept": "text/html"})[2]
    assert "<script>" not in text


def test_deadline_header_lowers_and_never_raises(served):
    budget = served.infer(body={"do": "echo"})[2]["budget"]
    assert 25_000 < budget <= 30_000
    assert served.infer(body={"do": "echo"}, x_request_timeout_ms="900")[2]["budget"] <= 900
    assert served.infer(body={"do": "echo"}, x_request_timeout_ms="999999")[2]["budget"] <= 30_000
    for wrong in ("0", "-1", "soon", "1e3", "9" * 30):
        assert served.infer(x_request_timeout_ms=wrong)[0] == 400


def test_no_answer_in_time_is_504_and_stays_counted(served):
    status, _, body = served.infer(body={"do": "hold"}, x_request_timeout_ms="30")
    assert status == 504
    assert "30" in body["error"] or "ms" in body["error"]
    assert served.inflight()["w2"] == 1  # the worker still has it
    served.infer(body={"do": "release"})
    served.until(lambda: served.inflight()["w2"] == 0)


def test_binary_header_length_is_passed_on_or_refused(served):
    body = json.dumps({"do": "echo"}).encode()
    assert served.infer(body=body, inference_header_content_length=str(len(body)))[2]["header"] == len(body)
    for wrong in ("0", str(len(body) + 1), "x"):
        assert served.infer(body=body, inference_header_content_length=wrong)[0] == 400
    assert served.infer(body=body, content_encoding="gzip")[0] == 415


def test_candidate_without_a_worker_costs_nobody_an_answer(served):
    assert {served.infer()[2]["model_version"] for _ in range(20)} == {"2"}
