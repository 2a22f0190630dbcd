"""Finds what is wrong with a log after many writers have written to it.

Given what stands in the store and what each writer was told, it looks for: numbers that are missing, records
that were acknowledged and are not there (or hold something else), one record at two numbers, two writers told
that the same number is theirs, a chain that does not hold, records that nobody tried to write. It reads the
bytes by itself and shares no code with the log it checks. An empty answer means a whole history.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Told:
    """What a writer was told: the ids acknowledged to it at their numbers, and those it tried at all."""

    acknowledged: list[tuple[str, int]] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)


def read_folder(folder: Path) -> dict[int, bytes]:
    """Everything in the log/ of a store in a folder, by number, found by listing it."""
    return {int(path.stem): path.read_bytes() for path in (folder / "log").glob("[0-9]*.json")}


def problems(found: Mapping[int, bytes], told: Iterable[Told]) -> list[str]:
    """Every problem, beginning with its kind: gap, chain, duplicate, lost, double, ghost, garbage."""
    told = list(told)
    out = [f"gap: no record {seq}" for seq in range(1, max(found, default=0) + 1) if seq not in found]
    ids: dict[int, str] = {}
    before = "0" * 64
    for seq in sorted(found):
        record = _read(found[seq])
        if record is None:
            out.append(f"garbage: record {seq} cannot be read")
        else:
            ids[seq] = str(record["id"])
            if seq - 1 in found or seq == 1:
                out += [f"chain: record {seq} does not name record {seq - 1}"] * (record["prev"] != before)
            out += [f"garbage: record {seq} says {record['seq']}"] * (record["seq"] != seq)
        before = hashlib.sha256(found[seq]).hexdigest()
    out += [
        f"duplicate: {one} stands {count} times" for one, count in Counter(ids.values()).items() if count > 1
    ]
    return out + _against_told(ids, told)


def _against_told(ids: Mapping[int, str], told: list[Told]) -> list[str]:
    acknowledged = [pair for writer in told for pair in writer.acknowledged]
    out = [f"lost: {one} was acknowledged at {seq}" for one, seq in acknowledged if ids.get(seq) != one]
    numbers = Counter(seq for _, seq in acknowledged)
    out += [f"double: {count} writers were told {seq}" for seq, count in numbers.items() if count > 1]
    tried = set().union(*(writer.tried for writer in told)) | {one for one, _ in acknowledged}
    return out + [f"ghost: {one} at {seq}" for seq, one in ids.items() if one not in tried]


def _read(data: bytes) -> dict[str, object] | None:
    try:
        record = json.loads(data)
        return record if {"id", "prev", "seq"} <= set(record) else None
    except (ValueError, TypeError):
        return None
