"""What msgspec raises for bytes from elsewhere that are not the JSON that was asked for.

Rules: whoever decodes what a client or another process sent catches all of NOT_JSON, each of which one such
body can bring about. Left out: what is said then.
"""

from __future__ import annotations

import msgspec

#: Not JSON or of another type; not UTF-8; nested too deeply.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
