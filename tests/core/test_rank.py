from __future__ import annotations

from mldeploy.core.rank import rank

HOSTS = [f"host-{number}" for number in range(50)]


def test_every_host_has_a_rank_of_its_own_that_all_of_them_know() -> None:
    ranks = {host: rank(host, HOSTS[::-1], "checkpoint") for host in HOSTS}
    assert sorted(ranks.values()) == list(range(50))
    assert ranks == {host: rank(host, set(HOSTS), "checkpoint") for host in HOSTS}


def test_who_is_no_member_has_one_too_and_purposes_spread() -> None:
    assert 0 <= rank("new", HOSTS, "x") <= 50
    assert rank("alone", [], "x") == rank("alone", ["alone"], "x") == 0
    first = {purpose: min(HOSTS, key=lambda host: rank(host, HOSTS, purpose)) for purpose in "abcdefgh"}
    assert len(set(first.values())) > 3


def test_a_dead_host_moves_those_behind_it_up_and_nobody_else() -> None:
    before = {host: rank(host, HOSTS, "x") for host in HOSTS}
    gone = HOSTS[7]
    for host in HOSTS:
        if host != gone:
            after = rank(host, [other for other in HOSTS if other != gone], "x")
            assert after == before[host] - (before[host] > before[gone])
