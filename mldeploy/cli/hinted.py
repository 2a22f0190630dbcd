"""Commands in what is said, with the store that this call was given by `--store`.

What chose the store otherwise, a variable or a file, chooses it for the next command too. A URL that names a
user is not repeated: there may be a password. Left out: the environment (`client/hints.py`).
"""

from __future__ import annotations

import re
import shlex

#: A command in backquotes that goes to a store, and names none yet.
_COMMAND = re.compile(r"`(mldeploy (?!(?:init|serve)\b)(?:(?!--store|--help)[^`])*)`")


def with_store(text: str, store: str | None) -> str:
    """`text`, each command in it with `--store`; None: none was given."""
    if store is None or "@" in store.partition("://")[2].partition("/")[0]:
        return text
    return _COMMAND.sub(lambda found: f"`{found[1]} --store {shlex.quote(store)}`", text)
