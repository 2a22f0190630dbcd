"""Asks S3 in which region a bucket is, for an error message: obstore drops the answer that says it.

S3 names the region in a header of every answer about a bucket, also where it forbids or redirects, and also
to a question that nobody has signed.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any

from mldeploy.store.s3_config import Settings

#: Seconds: the error is told without it rather than late.
TIMEOUT = 5.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """The answer that redirects is the one that tells."""


def bucket_region(settings: Settings, bucket: str) -> str:
    """The bucket's region, "" where no answer says it. One unsigned HEAD."""
    endpoint = settings.endpoint.rstrip("/") or "https://s3.amazonaws.com"
    request = urllib.request.Request(f"{endpoint}/{bucket}", method="HEAD")
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        with error:
            headers = error.headers
    except (OSError, http.client.HTTPException, ValueError):  # no answer, none that is HTTP, no URL
        return ""
    return str(headers.get("x-amz-bucket-region") or "")
