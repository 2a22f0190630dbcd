"""`python -m mldeploy`: the same as the command `mldeploy`."""

from __future__ import annotations

from mldeploy.cli.main import main

if __name__ == "__main__":
    main()
