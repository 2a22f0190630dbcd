"""Three real daemons on one S3 server, clients with sticky keys: a good candidate goes from a shadow step to
all of the traffic, nobody but the hosts takes part, and the launch is told with what /metrics showed."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import random
import re
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mldeploy.core.evidence import Evidence
from mldeploy.core.records import Advance, Complete, Policy, Promote, decode
from mldeploy.core.routing import choose
from mldeploy.store.log import Log, record_key
from mldeploy.store.objects import open_store
from tests.reporting.receivers import Mailbox, mail_server
from tests.support.bundles import Maker, append, publish
from tests.support.daemons import Daemon, answer_of, request, until
from tests.support.s3 import Server

HOSTS, KEYS = 3, 5_000
ROLLOUT = "01jd8zq5m0v3k4n5p6q7r8s9ta"
STEPS = (0, 100, 1_000, 5_000, 10_000)
NEVER = {"pause.pressure": 1e9, "pause.queue": 1e9, "pause.latency": 1e9}


class Clients:
    """Clients of one host: each request has one of so many keys, and the version that answered is kept.

    Every host's clients have the same keys, as behind a load balancer.
    """

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.address = daemon.address()
        self.seen: dict[str, list[int]] = defaultdict(list)  # by key: versions, without repeats in a row
        self.answers: list[tuple[float, str, int]] = []  # when it was asked, key, version
        self.failed: list[str] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(seed * 10 + n, n)) for n in range(2)]

    def _run(self, seed: int, part: int) -> None:
        chance, body = random.Random(seed), json.dumps(request(1.0))
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        with contextlib.closing(connection):
            while not self.stopping.is_set():
                # a key is one thread's, so that its answers come in order
                key = f"user-{chance.randrange(part, KEYS, 2)}"
                begun = time.monotonic()
                try:
                    connection.request("POST", "/v2/models/answer/infer", body, {"x-user": key})
                    response = connection.getresponse()
                    said = response.read()
                except (OSError, http.client.HTTPException) as error:
                    self.failed.append(repr(error))
                    connection.close()
                    continue
                if response.status != 200:
                    self.failed.append(f"{response.status} {said!r}")
                    continue
                version = answer_of(json.loads(said))[1]
                self.answers.append((begun, key, version))
                if self.seen[key][-1:] != [version]:
                    self.seen[key].append(version)


def flips(clients: list[Clients]) -> int:
    """How often one host answered a key with stable after another had answered it with the candidate.

    Only between the first and the last host's reading of the step that lets the key in, which shows in their
    first answers by the candidate to keys of that step.
    """
    step = {f"user-{n}": next(s for s in STEPS if choose(f"user-{n}", ROLLOUT, s)) for n in range(KEYS)}
    first: dict[tuple[int, int], float] = {}  # by host and step
    for host, each in enumerate(clients):
        for begun, key, version in each.answers:
            if version == 2:
                first[host, step[key]] = min(begun, first.get((host, step[key]), begun))
    taken: set[str] = set()
    found = 0
    for begun, key, version in sorted(answer for each in clients for answer in each.answers):
        if version == 2:
            taken.add(key)
        elif key in taken:
            found += 1
            assert begun <= max(first.get((host, step[key]), math.inf) for host in range(HOSTS))
    return found


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
                connection = http.client.HTTPConnection(*daemon.address(), timeout=30)
                with contextlib.closing(connection):
                    connection.request("GET", "/metrics")
                    text = connection.getresponse().read().decode()
                for family in text_string_to_metric_families(text):
                    if family.name == "mldeploy_rollout_requests":
                        for sample in family.samples:
                            key = int(sample.labels["scope"]), int(sample.labels["version"])
                            found[key] += int(sample.value)
            self.seen.append((begun, time.time(), found))

    def check(self, scope: int, evidence: Evidence) -> None:
        """What was judged is what they showed: no more than in the end, no less than a few seconds before.

        Reports and /metrics tell with a delay of seconds, each its own, what was counted; and between a
        verdict and the moment when every host has read it, requests go on.
        """
        for measure in evidence.measures:
            key, count = (scope, measure.version), measure.tally.requests
            if measure.role != "shadow" and count:
                before = [found[key] for _, ended, found in self.seen if ended < evidence.end - 5.0]
                assert max(before, default=0) <= count <= max(found[key] for _, _, found in self.seen)


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
            daemon = Daemon(url, tmp_path / f"host-{number}", env=env, poll=0.2, report=0.5, **NEVER)
            daemons.append(stack.enter_context(daemon))
        for daemon in daemons:
            daemon.wait_ready()
        candidate = publish(
            store, maker.bundle("answer", 1.0, key="header:x-user", bad={"other": 1.0}), share=None
        )
        clients = [Clients(daemon, seed) for seed, daemon in enumerate(daemons)]
        gauges = Gauges(daemons)
        running = [*clients, gauges]
        for each in running:
            for thread in each.threads:
                thread.start()
        try:
            append(
                store,
                Promote(
                    model="answer", version=candidate.version, steps=STEPS, hold=2, rollout=ROLLOUT,
                    guards=("error_rate < 10%", "agreement > 90%", "crashes < 1"), min_requests=60,
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
    assert [each.failed for each in clients] == [[], [], []]
    for each in clients:
        # from stable to the candidate, at most once, and never back on a host
        assert {tuple(versions) for versions in each.seen.values()} <= {(1,), (2,), (1, 2)}
    print(
        f"{flips(clients)} of {sum(len(each.answers) for each in clients)} answers by a host behind another"
    )
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
        # what the keys' hash gives, and what chance adds to that
        part = sum(choose(f"user-{number}", ROLLOUT, share) for number in range(KEYS)) / KEYS
        total = sum(counted.values())
        assert abs(part - share / 10_000) <= 3 * math.sqrt(share / 10_000 * (1 - share / 10_000) / KEYS)
        error = math.sqrt(part * (1 - part) / total)
        off = (counted["candidate"] / total - part) / error if error else 0.0
        print(f"{share / 100:g} %: {counted['candidate']} of {total}, {off:+.1f} standard errors")
        assert abs(counted["candidate"] / total - part) <= 3 * error
