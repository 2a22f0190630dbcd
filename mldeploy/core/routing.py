"""The sticky split of a model's traffic between stable and candidate, and of what a shadow sees.

Rules: the same key and rollout always give the same answer; whoever is in at 1 % is in at 10 %; two rollouts
choose independently of each other, because the rollout's id is the salt (a shadow's id for a shadow).
Left out: where the key of a request comes from (the front).
"""

from __future__ import annotations

import re
from hashlib import blake2b

import msgspec

from mldeploy.core.types import FULL_SHARE
from mldeploy.errors import UsageError

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


class Key(msgspec.Struct, frozen=True):
    """What identifies a client: a header, the first element of an input, or "" for the request id."""

    source: str = ""  # "", "header" or "input"
    name: str = ""  # of a header in lower case


def parse_key(text: str) -> Key:
    """Read `header:NAME`, `input:NAME`, or nothing for the request id. Raises UsageError."""
    source, colon, name = text.partition(":")
    name = name.strip()
    if not text:
        return Key()
    if colon and source == "header" and _HEADER.fullmatch(name):
        return Key("header", name.lower())
    if colon and source == "input" and name:
        return Key("input", name)
    raise UsageError(
        f"{text[:100]!r} is no routing key",
        "write header:x-user or input:user_id, or nothing for request ids",
    )


class Split:
    """One split: its salt (the rollout's id) and the share, in hundredths of a percent (0 to 10,000).

    Made once for many keys: a front asks it for every request.
    """

    __slots__ = ("_begun", "_share")

    def __init__(self, salt: str, share: int) -> None:
        self._begun = blake2b(f"{salt}\0".encode("utf-8", "surrogatepass"), digest_size=8)
        self._share = share

    def takes(self, key: str) -> bool:
        """Whether the request with this routing key is in the share."""
        digest = self._begun.copy()
        # a lone surrogate in a header's text must not end in an error on the prediction path
        digest.update(key.encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest()) % FULL_SHARE < self._share


def choose(key: str, salt: str, share: int) -> bool:
    """Whether the request with this routing key goes to the candidate: `Split`, for one key."""
    return Split(salt, share).takes(key)
