"""The sticky split of a model's traffic between stable and candidate.

Rules: the same key and rollout always give the same answer; whoever is in at 1 % is in at 10 %; two rollouts
choose independently of each other, because the rollout's id is the salt.
"""

from __future__ import annotations

from hashlib import blake2b

from mldeploy.core.types import FULL_SHARE


def choose(key: str, salt: str, share: int) -> bool:
    """Whether the request with this routing key goes to the candidate.

    `salt` is the rollout's id, `share` the candidate's hundredths of a percent (0 to 10,000).
    """
    # a lone surrogate in a header's text must not end in an error on the prediction path
    text = f"{salt}\0{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest()) % FULL_SHARE < share
