"""The page at `/-/`: one file that loads nothing else, and the headers that enforce this."""

import base64
import hashlib
import re
from functools import cache
from http import HTTPStatus
from pathlib import Path

from aiohttp import hdrs, web

POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-cache",
    "X-Content-Type-Options": "nosniff",
    # The address may contain a key.
    "Referrer-Policy": "no-referrer",
}
LOCKED = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>A key is needed</title>
<h1>This proxy needs a key</h1>
<p>Add one of its <code>server.api_keys</code> to the address: <code>http://HOST:PORT/-/key/<b>KEY</b>/-/</code>
"""


def page() -> web.Response:
    content, policy = _page()
    return web.Response(body=content, headers={**HEADERS, "Content-Security-Policy": policy})


def locked_page() -> web.Response:
    """For a browser without a key."""
    return web.Response(
        body=LOCKED, status=HTTPStatus.UNAUTHORIZED, headers={**HEADERS, "Content-Security-Policy": POLICY}
    )


@cache
def _page() -> tuple[bytes, str]:
    """The file and its policy. A browser normalizes line ends to LF before it computes the hashes of the policy."""
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return text.encode(), f"{POLICY}; script-src {_hash(text, 'script')}; style-src {_hash(text, 'style')}"


def _hash(text: str, tag: str) -> str:
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
