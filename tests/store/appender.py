"""A process that appends records to the log of a store in a folder, for `test_log_race.py`.

    python appender.py FOLDER NAME COUNT [broken]

Says "ready", waits for a line on its standard input, appends, and prints as JSON what it was told.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from mldeploy.core.records import Join
from mldeploy.store.log import Log
from mldeploy.store.objects import ObjectStore, open_store
from tests.store.stores import BrokenStore


def main(folder: str, name: str, count: str, driver: str = "") -> None:
    store: ObjectStore = BrokenStore(Path(folder)) if driver == "broken" else open_store(folder)
    log = Log(store)
    print("ready", flush=True)
    sys.stdin.readline()
    told = []
    for number in range(int(count)):
        host = f"{name}-{number}"
        appended = log.append(
            lambda state, host=host: [] if host in state.hosts else [Join(host=host)],  # type: ignore[misc]
            actor=name,
            now=datetime.now(UTC),
            deadline=None,
        )
        if appended is not None:  # None: already so, which only a broken driver can bring about
            told.append((appended.id, appended.seq))
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
