"""Commands in hints: so that one which is run as it stands acts where the command that failed did.

Rules: the environment is named unless the command would mean the same without it, here and now: by
MLDEPLOY_ENVIRONMENT, the nearest mldeploy.toml or the default. Left out: the store (`cli/hinted.py`).
"""

from __future__ import annotations

import shlex

from mldeploy.config import default_environment
from mldeploy.core.types import PRODUCTION


def command(text: str, environment: str) -> str:
    """`mldeploy unfreeze churn --environment staging`, in backquotes, for `text` = "unfreeze churn"."""
    option = "" if environment == default_environment() else f" --environment {environment}"
    return f"`mldeploy {text}{option}`"


def daemon(store: str, environment: str) -> str:
    """The command that starts a daemon of the environment; what a shell means says nothing to mldeployd.

    DIR is for the reader to choose.
    """
    option = "" if environment == PRODUCTION else f" --environment {environment}"
    return f"`mldeployd --store {shlex.quote(store)} --state DIR{option}`"
