from __future__ import annotations

from tests.support.s3 import bucket, s3_environ, s3_server

__all__ = ["bucket", "s3_environ", "s3_server"]
