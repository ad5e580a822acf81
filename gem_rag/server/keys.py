"""Who may ask: a key, sent with each request or kept by the page as a cookie."""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers

COOKIE = "gem_rag"


class Keys:
    """Compares what is sent with the key, in constant time.

    Args:
        key: The key; None lets everybody in.
    """

    def __init__(self, key: str | None) -> None:
        self._key = key

    @property
    def needed(self) -> bool:
        """Whether one is needed at all."""
        return self._key is not None

    def fits(self, given: str) -> bool:
        """Whether it is the key."""
        return self._key is None or hmac.compare_digest(_digest(given), _digest(self._key))

    @property
    def cookie(self) -> str:
        """What the page keeps: it shows that the key was known, and does not tell it."""
        return hmac.new((self._key or "").encode(), b"gem-rag page", hashlib.sha256).hexdigest()

    def admits(self, headers: Headers) -> bool:
        """Whether a request comes with the key, as a bearer token or as the page's cookie."""
        if self._key is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.fits(given.strip()):
            return True
        kept = _cookie(headers.get("cookie", ""))
        return hmac.compare_digest(_digest(kept), _digest(self.cookie))


def _digest(text: str) -> bytes:
    """Of one length, whatever the text's."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
