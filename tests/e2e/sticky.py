"""Clients with sticky keys, each on one connection to a front that is known, and what their answers show."""

from __future__ import annotations

import http.client
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.daemons import Daemon, answer_of, request, until

BODY = json.dumps(request(1.0))
PATH = "/v2/models/answer/infer"


class Answer(NamedTuple):
    begun: float
    ended: float
    key: str
    version: int


class Client:
    """Asks one front, one request after the other, each with one of so many keys; all clients have the same
    ones, as behind a load balancer. It stops at its first failure.
    """

    def __init__(self, connection: http.client.HTTPConnection, keys: int, seed: int) -> None:
        self.connection, self.keys = connection, keys
        self.answers: list[Answer] = []
        self.failed: list[str] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(random.Random(seed),))]

    def _run(self, chance: random.Random) -> None:
        while not self.stopping.is_set() and not self.failed:
            key = f"user-{chance.randrange(self.keys)}"
            begun = time.monotonic()
            try:
                status, said = ask(self.connection, {"x-user": key})
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                return
            if status == 200:
                version = answer_of(json.loads(said))[1]
                self.answers.append(Answer(begun, time.monotonic(), key, version))
            else:
                self.failed.append(f"{status} {said!r}")


def ask(connection: http.client.HTTPConnection, headers: dict[str, str]) -> tuple[int, bytes]:
    connection.request("POST", PATH, BODY, headers)
    response = connection.getresponse()
    return response.status, response.read()


def metrics(daemon: Daemon) -> Iterable[Metric]:
    """What its metrics endpoint shows."""
    connection = http.client.HTTPConnection(*daemon.address(), timeout=30)
    try:
        connection.request("GET", "/metrics")
        return list(text_string_to_metric_families(connection.getresponse().read().decode()))
    finally:
        connection.close()


def one_of_each(daemon: Daemon, fronts: int) -> list[http.client.HTTPConnection]:
    """A connection to each front, found by whose count one request on it raises: nobody else may ask."""
    found: dict[str, http.client.HTTPConnection] = {}

    def another() -> bool:
        connection = http.client.HTTPConnection(*daemon.address(), timeout=30)
        before = _answered(daemon)
        assert ask(connection, {})[0] == 200
        after = _answered(daemon)
        raised = [front for front in after if after[front] > before[front]]
        if len(before) == len(after) == fronts and len(raised) == 1 and raised[0] not in found:
            found[raised[0]] = connection
        else:
            connection.close()
        return len(found) == fronts

    until(another, f"a connection to each of {fronts} fronts")
    return list(found.values())


def _answered(daemon: Daemon) -> Counter[str]:
    """Predictions answered, by front; without a front that did not say."""
    found = Counter[str]()
    for family in metrics(daemon):
        for sample in family.samples:
            if family.name == "mldeploy_front_up" and sample.value:
                found[sample.labels["front"]] += 0
            elif sample.name == "mldeploy_requests_total":
                found[sample.labels["front"]] += int(sample.value)
    return found


def check_front(answers: Sequence[Answer], step: Callable[[str], int], candidate: int) -> None:
    """A front that has answered a key with the candidate has read the step that lets this key in, and from
    then on answers no key of that step or of one before with anything else: its table is one value.
    """
    first: dict[int, float] = {}  # by step: when that was first seen
    for each in answers:
        if each.version == candidate:
            first[step(each.key)] = min(each.ended, first.get(step(each.key), math.inf))
    for each in answers:
        read = min((at for share, at in first.items() if share >= step(each.key)), default=math.inf)
        assert each.version == candidate or each.begun <= read, f"{each}, though the front read it at {read}"


def flips(answers: Iterable[Answer], candidate: int) -> int:
    """How many answers were not by the candidate though their key had had one by it before they were asked.

    Where `check_front` holds of each front, they are those of fronts that have not read the key's step yet.
    """
    answers = list(answers)
    taken: dict[str, float] = {}
    for each in answers:
        if each.version == candidate:
            taken[each.key] = min(each.ended, taken.get(each.key, math.inf))
    return sum(each.version != candidate and each.begun > taken.get(each.key, math.inf) for each in answers)
