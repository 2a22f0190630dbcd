"""What an idle host costs: counted at a proxy before a real S3 server, whatever the number of models.

Left out: the few requests of steering after each quarter of an hour (`test_steering.py` counts them).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from mldeploy.core.records import GENESIS, Publish, Record, encode
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log, record_key
from mldeploy.store.objects import ObjectStore, open_store
from tests.support.bundles import Maker, publish
from tests.support.daemons import Daemon, until
from tests.support.proxy import Proxy
from tests.support.s3 import Server

POLL, REPORT = 0.2, 1.0


def fill(store: ObjectStore, models: int, a_record: int = 500) -> None:
    """So many published models, in records of up to `a_record` actions."""
    before = GENESIS
    for seq, first in enumerate(range(0, models, a_record), 1):
        actions = tuple(
            Publish(
                model=f"m{number}",
                digest=_digest(number),
                push=new_ulid(),
                brought={_digest(number): 1},
                owner="tests@example.com",
                expires="2099-01-01",
                python="3.11",
                platform="linux-x86_64",
            )
            for number in range(first, min(first + a_record, models))
        )
        record = Record(
            seq=seq, id=new_ulid(), prev=before, time="2026-01-01T00:00:00Z", actor="tests", actions=actions
        )
        data = encode(record)
        assert store.create(record_key(seq), data)
        before = hashlib.sha256(data).hexdigest()


def _digest(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


@pytest.mark.parametrize("models", [1, 10_000])
def test_an_idle_daemon_polls_with_one_request_and_reports(
    models: int, s3_environ: Server, bucket: str, maker: Maker, tmp_path: Path
) -> None:
    s3_environ.make_store(bucket, "store")
    url = f"s3://{bucket}/store"
    store = open_store(url)
    fill(store, models - 1)
    publish(store, maker.bundle("answer", 1.0))
    log = Log(store)
    log.refresh()
    assert len(log.state.models) == models
    assert log.state.voids == 0
    maker.seed(tmp_path / "state")
    with Proxy(s3_environ.endpoint.removeprefix("http://")) as proxy:
        env = os.environ | s3_environ.through(f"http://{proxy.address}").environ
        daemon = Daemon(url, tmp_path / "state", env=env, poll=POLL, report=REPORT)
        with daemon:
            daemon.wait_answer(1.0)
            until(lambda: (report := daemon.report()) and report.ready, "a report that says ready")
            log.refresh()  # it has joined
            polls = f"/{bucket}/store/{record_key(log.state.head + 1)}"
            calm = proxy.count("GET", polls) + 5
            until(lambda: proxy.count("GET", polls) >= calm, "it polls")
            first, begun = len(proxy.requests), time.monotonic()
            until(lambda: proxy.count("GET", polls) >= calm + 25, "it goes on polling")
            seen, passed = proxy.requests[first:], time.monotonic() - begun
        kinds = Counter((one.method, one.target, one.status) for one in seen)
        report = f"/{bucket}/store/hosts/production/"
        gets, puts = kinds.pop(("GET", polls, 404)), 0
        for (method, target, status), count in kinds.items():
            assert (method, status) == ("PUT", 200) and target.startswith(report), kinds
            puts += count
        # a slow machine makes fewer of them, never more
        assert gets <= passed / (0.8 * POLL) + 2
        assert 1 <= puts <= passed / REPORT + 2
        assert not any("list" in one.target for one in proxy.requests if "/store/log/" not in one.target)
