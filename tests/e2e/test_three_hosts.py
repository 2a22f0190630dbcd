"""Three real daemons on one S3 server, clients with sticky keys: a good candidate goes from a shadow step to
all of the traffic, nobody but the hosts takes part, and the launch is told with what /metrics showed."""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from mldeploy.core.evidence import Evidence
from mldeploy.core.records import Advance, Complete, Policy, Promote, decode
from mldeploy.core.routing import choose
from mldeploy.store.log import Log, record_key
from mldeploy.store.objects import open_store
from tests.e2e.sticky import Client, check_front, flips, metrics, one_of_each
from tests.reporting.receivers import Mailbox, mail_server
from tests.support.bundles import Maker, append, publish
from tests.support.daemons import Daemon, until
from tests.support.s3 import Server

HOSTS, FRONTS, KEYS = 3, 2, 5_000
#: Seconds of each step, and requests of the candidate.
HOLD, LEAST = 20, 60
ROLLOUT = "01jd8zq5m0v3k4n5p6q7r8s9ta"
STEPS = (0, 100, 1_000, 5_000, 10_000)
#: The step that lets a key in.
STEP = {
    key: next(share for share in STEPS if choose(key, ROLLOUT, share))
    for key in (f"user-{number}" for number in range(KEYS))
}
NEVER = {"pause.pressure": 1e9, "pause.queue": 1e9, "pause.latency": 1e9}


class Gauges:
    """What the metrics endpoints of all hosts show of the ramp: requests by (scope, version), over time."""

    def __init__(self, daemons: list[Daemon]) -> None:
        self.daemons = daemons
        self.seen: list[tuple[float, float, Counter[tuple[int, int]]]] = []  # begun, ended, their sum
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._run)]

    def _run(self) -> None:
        while not self.stopping.wait(0.1):
            begun, found = time.time(), Counter[tuple[int, int]]()
            for daemon in self.daemons:
                for family in metrics(daemon):
                    if family.name == "mldeploy_rollout_requests":
                        for sample in family.samples:
                            key = int(sample.labels["scope"]), int(sample.labels["version"])
                            found[key] += int(sample.value)
            self.seen.append((begun, time.time(), found))

    def check(self, scope: int, evidence: Evidence) -> None:
        """What was judged is what they showed: no more than in the end, no less than a few seconds before.

        Reports and /metrics tell with a delay of seconds, each its own, what was counted; and between a
        verdict and the moment when every host has read it, requests go on. What a step was waited for was
        shown at all by then: a step is held for so long that of the fewest requests it may have, 45 of 60 are
        expected before the last few seconds, and none of them came with a chance below one of 10^15.
        """
        for measure in evidence.measures:
            key, count = (scope, measure.version), measure.tally.requests
            if measure.role != "shadow" and count:
                before = [found[key] for _, ended, found in self.seen if ended < evidence.end - 5.0]
                shown = max(before, default=0)
                assert shown <= count <= max(found[key] for _, _, found in self.seen)
                assert shown > 0 or count < LEAST


def check_keys(hosts: list[list[Client]], candidate: int) -> None:
    """From stable to the candidate, at most once and never back on a front; so keys flip between fronts, of a
    host or of several, only while they read the step that lets the key in, each at its own moment.
    """
    for clients in hosts:
        for client in clients:
            assert client.failed == []
            assert {each.version for each in client.answers} == {1, candidate}
            check_front(client.answers, STEP.__getitem__, candidate)
    of_hosts = [[each for client in clients for each in client.answers] for clients in hosts]
    within, everywhere = sum(flips(each, candidate) for each in of_hosts), flips(chain(*of_hosts), candidate)
    total = sum(map(len, of_hosts))
    print(f"of {total} answers {everywhere} were by a front behind another, {within} of the same host")


@pytest.mark.full
@pytest.mark.timeout(900)
def test_from_a_shadow_to_all_traffic_with_sticky_keys_on_three_hosts(
    s3_environ: Server, bucket: str, maker: Maker, tmp_path: Path
) -> None:
    s3_environ.make_store(bucket, "store")
    url = f"s3://{bucket}/store"
    store = open_store(url)
    publish(store, maker.bundle("answer", 1.0, key="header:x-user"))
    env = os.environ | s3_environ.environ
    with contextlib.ExitStack() as stack:
        box = stack.enter_context(mail_server(Mailbox()))
        mail = f"mailto://127.0.0.1:{box.port}/ops@example.com?from=mldeploy@example.com"
        append(store, Policy(settings={"notify": {"ops": mail}}))
        daemons = []
        for number in range(HOSTS):
            maker.seed(tmp_path / f"host-{number}")
            state = tmp_path / f"host-{number}"
            daemon = Daemon(url, state, fronts=FRONTS, env=env, poll=0.2, report=0.5, **NEVER)
            daemons.append(stack.enter_context(daemon))
        for daemon in daemons:
            daemon.wait_ready()
        candidate = publish(
            store, maker.bundle("answer", 1.0, key="header:x-user", bad={"other": 1.0}), share=None
        )
        hosts = [
            [
                Client(stack.enter_context(contextlib.closing(connection)), KEYS, host * FRONTS + front)
                for front, connection in enumerate(one_of_each(daemon, FRONTS))
            ]
            for host, daemon in enumerate(daemons)
        ]
        clients = [client for host in hosts for client in host]
        gauges = Gauges(daemons)
        running: list[Client | Gauges] = [*clients, gauges]
        for each in running:
            for thread in each.threads:
                thread.start()
        try:
            append(
                store,
                Promote(
                    model="answer", version=candidate.version, steps=STEPS, hold=HOLD, rollout=ROLLOUT,
                    guards=("error_rate < 10%", "agreement > 90%", "crashes < 1"), min_requests=LEAST,
                ),
            )  # fmt: skip
            log = Log(store)

            def over() -> str:
                log.refresh()
                ended = log.state.environments["production"]["answer"].ended
                return ended.outcome if ended is not None and ended.rollout == ROLLOUT else ""

            assert until(over, "the rollout is over", 600.0, every=0.5) == "completed"
            ended = time.time()
            until(lambda: gauges.seen[-1][0] > ended + 3.0, "what was counted last is shown", 60.0)
        finally:
            for each in running:
                each.stopping.set()
                for thread in each.threads:
                    thread.join()

        def told() -> bool:
            log.refresh()
            return not log.state.notices

        until(told, "every notice is closed")
    check_keys(hosts, candidate.version)
    said = []
    for seq in range(1, log.state.head + 1):
        fetched = store.get(record_key(seq))
        assert fetched is not None
        said += [(seq, action) for action in decode(fetched.data, seq).actions]
    steps = [(seq, action) for seq, action in said if isinstance(action, Advance | Complete)]
    assert [action.step for _, action in steps] == list(range(len(STEPS)))
    (mail,) = [each for each in box.mails if f"{candidate}" in str(each["Subject"])]
    body = mail.get_body(("plain",))
    assert body is not None
    text = body.get_content()
    (scope,) = [seq for seq, action in said if isinstance(action, Promote) and action.rollout == ROLLOUT]
    for share, (seq, action) in zip(STEPS, steps, strict=True):
        assert action.evidence is not None
        gauges.check(scope, action.evidence)
        scope = seq  # of the next step
        assert (action.evidence.hosts, action.evidence.members) == (HOSTS, HOSTS)
        counted = {measure.role: measure.tally.requests for measure in action.evidence.measures}
        if not share:
            assert counted.get("candidate", 0) == 0
            continue
        shown = counted["candidate"], counted.get("stable", 0)
        assert re.search(rf"requests +{shown[0]:,} +{shown[1]:,}\r?\n", text), f"{shown} in {text}"
        # what the keys' hash gives, the same in every run; and what the draw of keys adds to that, more than
        # five standard errors by accident in about one of 100,000 runs: three shares, and few requests at 1 %
        part = sum(choose(f"user-{number}", ROLLOUT, share) for number in range(KEYS)) / KEYS
        total = sum(counted.values())
        assert abs(part - share / 10_000) <= 3 * math.sqrt(share / 10_000 * (1 - share / 10_000) / KEYS)
        error = math.sqrt(part * (1 - part) / total)
        off = (counted["candidate"] / total - part) / error if error else 0.0
        print(f"{share / 100:g} %: {counted['candidate']} of {total}, {off:+.1f} standard errors")
        assert abs(counted["candidate"] / total - part) <= 5 * error
