"""`python -m bench [NAME …]`: run the benchmarks named (all by default) and print what each measured."""

from __future__ import annotations

import sys

from bench import log, serving, shadow, startup, steering, transfer

BENCHES = {
    "startup": startup.run,
    "log": log.run,
    "serving": serving.run,
    "shadow": shadow.run,
    "transfer": transfer.run,
    "steering": steering.run,
}


def main(names: list[str]) -> int:
    """Print one block for each benchmark."""
    unknown = set(names) - set(BENCHES)
    if unknown:
        print(f"error: no benchmark {', '.join(sorted(unknown))}", file=sys.stderr)
        print(f"hint: there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    for name in names or BENCHES:
        print(f"{name}")
        for line in BENCHES[name]():
            print(f"  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
