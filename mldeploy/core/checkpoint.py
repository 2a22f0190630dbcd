"""The bytes of a checkpoint: a State, packed small, and read back only as what it is.

    {"checkpoint":1,"fold":"<16 hex>","head":N,"head_sha256":"<64 hex>","size":BYTES}\n
    zlib of the msgpack of [state, digests, refs, counts, live, blobs]

The state is encoded as its Struct stands, so a new field needs nothing here. Only what makes it large is
taken out of it: every sha256 stands once, as 32 bytes, in `digests`; what names one gives the distance to the
place named before (mostly 1). `fold` names what the fold does and over which types (`fold_format`): a
checkpoint of another one is refused, because the same records might fold to something else there.
Reading is typed and bounded; anything unexpected is an IntegrityError. Left out: where checkpoints lie and
whether one may be believed (`store/checkpoints.py`).
"""

from __future__ import annotations

import hashlib
import operator
import typing
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import msgspec

from mldeploy.core.fold import FOLD
from mldeploy.core.records import Record
from mldeploy.core.state import Blob, Model, State, Version
from mldeploy.errors import IntegrityError

#: The newest layout of these bytes that this code reads.
LAYOUT = 1
#: Bytes. A state is not unpacked beyond this: 1,000,000 records of 10,000 models come to a twelfth of it.
MAX_SIZE = 4 << 30
#: zlib packs a thousand times at most; more than this is no state but a bomb.
_MAX_RATIO = 200
_MAX_HEADER = 1024
_LEVEL = 1  # what weighs is digests, which pack at no level


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: which state follows. `size`: bytes once unpacked."""

    checkpoint: int = LAYOUT
    fold: str
    head: int
    head_sha256: str
    size: int


class Packed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Versions are walked in order of model and number; `refs` are theirs: the digest, then the blobs."""

    state: State  # without blobs; its versions without digest and blobs
    digests: bytes  # 32 bytes each
    refs: list[int]  # distances: the first is a place in `digests`, each other is added to the one before
    counts: list[int]  # of `refs`, for each version
    live: list[int]  # distances too: the live blobs
    blobs: list[Blob]  # what is known of each of them


_HEADER = msgspec.json.Decoder(Header)
_PACKED = msgspec.msgpack.Decoder(Packed)
_ENCODER = msgspec.msgpack.Encoder()


def encode(state: State) -> bytes:
    """The checkpoint of a state. Tables are sorted, so that readers who fold alike write the same bytes.

    Raises ValueError for a state that holds something else than a sha256 where one belongs (no fold makes
    one).
    """
    return seal(state, pack(state))


def pack(state: State) -> Packed:
    """The state, with its digests taken out. Raises ValueError."""
    places: dict[str, int] = {}  # of each sha256, in the order in which they are met
    refs: list[int] = []
    counts: list[int] = []
    for version in _versions(state):
        refs.append(places.setdefault(version.digest, len(places)))
        refs += [places.setdefault(blob, len(places)) for blob in version.blobs]
        counts.append(1 + len(version.blobs))
    for blob in sorted(state.blobs.keys() - places.keys()):
        places[blob] = len(places)
    live = sorted(map(places.__getitem__, state.blobs))
    names = list(places)
    return Packed(
        _without_digests(state), _to_bytes(names), _distances(refs), counts, _distances(live),
        [state.blobs[names[place]] for place in live],
    )  # fmt: skip


def seal(state: State, packed: Packed) -> bytes:
    """The bytes of what was packed of `state`."""
    body = _ENCODER.encode(packed)
    header = Header(fold=fold_format(), head=state.head, head_sha256=state.head_sha256, size=len(body))
    return msgspec.json.encode(header) + b"\n" + zlib.compress(body, _LEVEL)


def decode(data: bytes, *, any_fold: bool = False) -> State:
    """The state in a checkpoint of this fold. Raises IntegrityError for anything else.

    `any_fold`: also one of another fold that this code's types can hold, with defaults for what it does not
    say. That is not what this code would have folded: it is for a host that has nothing better.
    """
    found = header(data)
    if found.checkpoint != LAYOUT or not (any_fold or found.fold == fold_format()):
        raise IntegrityError("the checkpoint is of another version of mldeploy", _IGNORED)
    try:
        # what is unpacked is let go as soon as it is decoded
        packed = _PACKED.decode(_unpack(memoryview(data)[data.index(b"\n") + 1 :], found.size))
        state = _restore(packed)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, IndexError, ValueError) as error:
        raise IntegrityError(f"the checkpoint cannot be read: {error}", _IGNORED) from error
    if (state.head, state.head_sha256) != (found.head, found.head_sha256):
        raise IntegrityError("the checkpoint is of another record than it says", _IGNORED)
    return state


def header(data: bytes) -> Header:
    """The first line of a checkpoint, of whatever fold. Raises IntegrityError."""
    line, newline, _ = data[:_MAX_HEADER].partition(b"\n")
    try:
        if newline:
            return _HEADER.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    raise IntegrityError("this is not a checkpoint", _IGNORED)


_IGNORED = "it is ignored, and the records are read instead"


@cache
def fold_format() -> str:
    """16 hex digits that name the fold of this code: the types it reads and makes, and FOLD.

    Any change of a field, a default or an action changes it by itself.
    """
    said = [f"fold {FOLD}", *sorted(_described((Record, State)))]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


# --- packing


def _versions(state: State) -> Iterator[Version]:
    for name in sorted(state.models):
        versions = state.models[name].versions
        for number in sorted(versions):
            yield versions[number]


def _without_digests(state: State) -> State:
    bare = {
        name: msgspec.structs.replace(model, versions=_bare(model)) for name, model in state.models.items()
    }
    changed = msgspec.structs.replace(state, models=bare, blobs={})
    tables = {f: _sorted(getattr(changed, f)) for f in changed.__struct_fields__}
    return msgspec.structs.replace(changed, **tables)


def _bare(model: Model) -> dict[int, Version]:
    return {
        number: msgspec.structs.replace(version, digest="", blobs=())
        for number, version in sorted(model.versions.items())
    }


def _sorted(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _sorted(value[key]) for key in sorted(value)}


def _to_bytes(names: Sequence[str]) -> bytes:
    joined = "".join(names)
    data = bytes.fromhex(joined)
    if data.hex() != joined or any(len(name) != 64 for name in names):
        raise ValueError("a digest in the state is not a sha256")
    return data


def _distances(places: Sequence[int]) -> list[int]:
    return [*places[:1], *map(operator.sub, places[1:], places)]


# --- unpacking


def _unpack(data: memoryview, size: int) -> bytes:
    if not 0 < size <= min(MAX_SIZE, _MAX_RATIO * len(data)):
        raise IntegrityError(f"the checkpoint says that it holds {size} bytes", _IGNORED)
    unpacking = zlib.decompressobj()
    try:
        body = unpacking.decompress(data, size)
        whole = unpacking.eof or (unpacking.decompress(unpacking.unconsumed_tail, 1) == b"" and unpacking.eof)
    except zlib.error as error:
        raise IntegrityError(f"the checkpoint cannot be unpacked: {error}", _IGNORED) from error
    if len(body) != size or not whole or unpacking.unused_data:
        raise IntegrityError("the checkpoint is longer or shorter than it says", _IGNORED)
    return body


def _restore(packed: Packed) -> State:
    """The state with its digests again; what was just decoded is nobody else's yet and is filled in place."""
    names = [packed.digests[at : at + 32].hex() for at in range(0, len(packed.digests), 32)]
    refs = _named(packed.refs, names)
    counts = iter(packed.counts)
    at = 0
    same = _Same()
    for version in _versions(packed.state):
        count = next(counts, 0)
        if count < 1 or at + count > len(refs):
            raise ValueError("a version without its blobs")
        _set(version, "digest", refs[at])
        _set(version, "blobs", tuple(refs[at + 1 : at + count]))
        same.share(version)
        at += count
    if at != len(refs) or next(counts, None) is not None:
        raise ValueError("blobs without their version")
    live = _named(packed.live, names)
    if len(set(live)) != len(live):
        raise ValueError("a blob that is there twice")
    for blob in packed.blobs:
        same.share(blob)
    _set(packed.state, "blobs", dict(zip(live, packed.blobs, strict=True)))
    return packed.state


_set = msgspec.structs.force_setattr


def _named(distances: Iterable[int], names: Sequence[str]) -> list[str]:
    places = list(accumulate(distances))
    if places and min(places) < 0:  # Python would count from the end
        raise ValueError("a digest before the first")
    return list(map(names.__getitem__, places))


class _Same:
    """Equal texts become one object, as they are where a state was folded: that halves its memory."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._fields: dict[type, list[str]] = {}

    def share(self, value: msgspec.Struct) -> None:
        kind = type(value)
        fields = self._fields.get(kind)
        if fields is None:
            fields = self._fields[kind] = [f.name for f in msgspec.structs.fields(kind) if f.type is str]
        for field in fields:
            text = getattr(value, field)
            _set(value, field, self._texts.setdefault(text, text))


# --- what the fold is


def _described(kinds: Iterable[type]) -> set[str]:
    """One line for each Struct that can be reached from these, with its fields, types and defaults."""
    seen: dict[type, str] = {}
    todo = list(kinds)
    while todo:
        kind = todo.pop()
        if kind in seen:
            continue
        fields = msgspec.structs.fields(kind)
        config = kind.__struct_config__  # type: ignore[attr-defined]
        seen[kind] = f"{kind.__name__} {config.tag!r} {config.forbid_unknown_fields} " + ", ".join(
            f"{field.encode_name}: {field.type} = {_default(field)}" for field in fields
        )
        for field in fields:
            todo += _structs_in(field.type)
    return set(seen.values())


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return repr(field.default_factory())
    return "none" if field.default is msgspec.NODEFAULT else repr(field.default)


def _structs_in(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _structs_in(part)
