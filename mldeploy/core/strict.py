"""Strict reading of plain data (from YAML, TOML or JSON) into Structs, with errors that name the dotted key.

Rules: an unknown key is an error whose hint names the nearest valid one; no number is taken for a string or
the other way round; what could not be written as JSON again (infinities, lone surrogates, integers beyond
64 bits) is refused. A date becomes its ISO form, because YAML reads `expires: 2027-06-30` as one.
Left out: what the values mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, TypeVar, get_args

import msgspec

from mldeploy.errors import ManifestError

_T = TypeVar("_T", bound=msgspec.Struct)
_AT = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"Object missing required field `(.*?)`")
_KINDS = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
#: What JSON and msgspec call a kind of value, in words.
_WORDS = {
    "array": "a list", "object": "keys and values", "str": "a text", "int": "a whole number",
    "float": "a number", "bool": "true or false", "null": "nothing",
}  # fmt: skip
_HINT = "docs/bundle.md says what each key holds; `mldeploy init DIR` writes an example"
_DEPTH = 50  # no manifest nests deeper; a deeper one would only serve to exhaust the stack


def convert(
    struct_type: type[_T], data: object, *, missing: Mapping[str, str] | None = None, hint: str = _HINT
) -> _T:
    """`data` as a `struct_type`. `missing` maps a required key to the hint shown when it is not there.

    `hint` says where to read what a key holds.

    Raises ManifestError: message "dotted.key: what is wrong", hint how to mend it.
    """
    if not isinstance(data, dict):
        raise ManifestError(f"expected keys and values, got {_kind(data)}", "write one `key: value` a line")
    data = _plain(data, "", 0)
    unknown = nearest_key_error(struct_type, data)
    if unknown is not None:
        raise unknown
    try:
        return msgspec.convert(data, struct_type)
    except msgspec.ValidationError as error:
        raise _explained(str(error), data, missing or {}, hint) from error


@lru_cache(maxsize=256)
def fields_of(struct_type: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields of a Struct type. msgspec evaluates the annotations anew each time it is asked."""
    return msgspec.structs.fields(struct_type)


def nearest_key_error(
    struct_type: type[msgspec.Struct], data: object, path: str = ""
) -> ManifestError | None:
    """The first key of `data` that `struct_type` (or a Struct inside it) does not have, as an error to raise.

    `path` is the dotted key of `data` itself. None where every key is known; wrong types are not looked at.
    """
    if not isinstance(data, dict):
        return None
    fields = {field.encode_name: field for field in fields_of(struct_type)}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            return ManifestError(f"{where}: unknown key", _nearest(str(key), list(fields)))
        inner = _struct_in(fields[key].type)
        if inner is None:
            continue
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            at = f"{where}[{index}]" if isinstance(value, list) else where
            error = nearest_key_error(inner, item, at)
            if error is not None:
                return error
    return None


def _nearest(key: str, valid: list[str]) -> str:
    close = get_close_matches(key.lower(), valid, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid keys here are {', '.join(sorted(valid))}"


def _struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    for argument in get_args(annotation):
        found = _struct_in(argument)
        if found is not None:
            return found
    return None


def _explained(message: str, data: object, missing: Mapping[str, str], hint: str) -> ManifestError:
    at = _AT.search(message)
    path = at[1] if at else ""
    text = message[: at.start()] if at else message
    absent = _MISSING.match(text)
    if absent:
        key = f"{path}.{absent[1]}" if path else absent[1]
        return ManifestError(f"{key}: missing", missing.get(key) or f"add the key {absent[1]!r}")
    got = _looked_up(data, path)
    if isinstance(got, bool) and "Expected `str`" in text:
        # what was written may have been yes, no, on or off
        what = "true" if got else "false"
        return ManifestError(f"{path}: it is read as {what}, not as a text", "put it in quotes")
    if isinstance(got, int | float) and "Expected `str`" in text:
        return ManifestError(f"{path}: {got!r} is read as a number, not as a text", f'quote it: "{got}"')
    kinds = _KINDS.fullmatch(text)
    if kinds:
        wanted = [_WORDS.get(kind, kind) for kind in kinds[1].split(" | ") if kind != "null"]
        text = f"expected {' or '.join(wanted)}, got {_WORDS.get(kinds[2], kinds[2])}"
        hint = "write it as a list: [...]" if wanted == [_WORDS["array"]] else hint
    text = text.replace("`", "").replace("Expected", "expected")
    return ManifestError(f"{path}: {text}" if path else text, hint)


def _looked_up(data: object, path: str) -> object:
    for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and part.isdecimal() and int(part) < len(data):
            data = data[int(part)]
        else:
            return None
    return data


def _plain(data: object, path: str, depth: int) -> object:
    """`data` with dates as text; refuses what JSON cannot carry."""
    if depth > _DEPTH:
        raise ManifestError(f"{path[:100]}: nested too deeply", f"nest at most {_DEPTH} levels")
    if isinstance(data, dict):
        for key in data:
            if not isinstance(key, str):
                raise ManifestError(f"{path}: the key {key!r} is not a text", f'quote it: "{key}"')
        return {
            _plain(key, path, depth): _plain(value, f"{path}.{key}" if path else str(key), depth + 1)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(data)]
    if isinstance(data, datetime):
        raise ManifestError(f"{path}: a time of day where a date is needed", "write YYYY-MM-DD")
    if isinstance(data, date):
        return data.isoformat()
    if isinstance(data, float) and not math.isfinite(data):
        raise ManifestError(f"{path}: {data} is not a number", "write a finite number")
    if isinstance(data, int) and not -(2**63) <= data < 2**63:
        raise ManifestError(f"{path}: the number is too large", "write a number of at most 64 bits")
    if isinstance(data, str) and not _encodable(data):
        raise ManifestError(f"{path}: the text is not valid Unicode", "save the file as UTF-8")
    return data


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(data: object) -> str:
    return "nothing" if data is None else f"a {type(data).__name__}"
