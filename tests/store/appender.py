"""A process that appends records to the log of a store, for the races (`racing.py`).

    python appender.py STORE NAME COUNT JOURNAL [broken]

Says "ready", waits for a line on its standard input and appends. Into JOURNAL go, a line each and before
anything else is done: `tried ID` for a record about to be written, `told ID SEQ` when it was acknowledged,
`done` at the end; so what a killed writer was told is known.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from mldeploy.core.records import Join
from mldeploy.errors import LogHoleError
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log
from mldeploy.store.objects import ObjectStore, open_store
from tests.store.stores import BrokenStore


def main(url: str, name: str, count: str, journal: str, driver: str = "") -> None:
    store: ObjectStore = BrokenStore(Path(url)) if driver == "broken" else open_store(url)
    log = Log(store)
    print("ready", flush=True)
    sys.stdin.readline()
    with Path(journal).open("a", buffering=1) as file:

        def told_id() -> str:
            one = new_ulid()
            file.write(f"tried {one}\n")
            return one

        for number in range(int(count)):
            host = f"{name}-{number}"
            try:
                appended = log.append(
                    lambda state, host=host: [] if host in state.hosts else [Join(host=host)],  # type: ignore[misc]
                    actor=name,
                    now=datetime.now(UTC),
                    ids=told_id,
                    deadline=None,
                )
            except LogHoleError:
                if driver != "broken":
                    raise
                break  # what it has read was overwritten by another
            if appended is not None:  # None: already so, which only a broken driver can bring about
                file.write(f"told {appended.id} {appended.seq}\n")
        file.write("done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
