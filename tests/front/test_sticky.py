"""Whoever has the same routing key stays with the same version, and whoever is in at 1 % is in at 10 %."""

from __future__ import annotations

import json

from mldeploy.core.routing import choose


def version_of(host, *, body=None, **headers):
    status, _, answer = host.infer(body=body, **headers)
    assert status == 200
    return answer["model_version"]


def user(name: object) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "user", "shape": [1, 1], "datatype": "BYTES", "data": [[name]]}]}
    ).encode()


def serve(host, build):
    one, two = build.version(host.worker("w1", 1)), build.version(host.worker("w2", 2))

    def write(**more):
        return build.model({1: one, 2: two}, stable=1, candidate=2, salt="r", **more)

    return write


def test_by_an_input(host, build):
    write = serve(host, build)
    host.front()
    names = [f"user {number}" for number in range(60)]
    before: set[str] = set()
    for share in (100, 1_000, 5_000, 10_000):
        host.publish(m=write(share=share, key="input:user"))
        inside = {name for name in names if version_of(host, body=user(name)) == "2"}
        assert inside == {name for name in names if choose(name, "r", share)}
        assert before <= inside
        before = inside
    assert before == set(names)


def test_a_body_that_cannot_be_read_falls_back_to_the_request_id(host, build):
    write = serve(host, build)
    host.write(m=write(share=5_000, key="input:user"))
    host.front(key_bytes=200)
    ids = [f"id {number}".replace(" ", "-") for number in range(30)]
    long = user("x" * 200)
    for body in (b"{}", b"not json", user(None), long):
        for ident in ids:
            expected = "2" if choose(ident, "r", 5_000) else "1"
            assert version_of(host, body=body, x_request_id=ident) == expected


def test_by_a_header_of_any_case(host, build):
    write = serve(host, build)
    host.write(m=write(share=5_000, key="header:X-User"))
    host.front()
    for number in range(30):
        name = f"user-{number}"
        assert version_of(host, x_user=name) == ("2" if choose(name, "r", 5_000) else "1")


def test_a_key_of_a_newer_agent_is_the_request_id(host, build):
    write = serve(host, build)
    host.write(m=write(share=5_000, key="cookie:user"))
    host.front()
    for number in range(10):
        ident = f"id-{number}"
        assert version_of(host, x_request_id=ident) == ("2" if choose(ident, "r", 5_000) else "1")
