"""Who may ask the page for something: a browser that shows it, under the name of this machine, and nobody else's page."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")  # another name that leads here would be a rebound one
HEADERS = {
    "content-security-policy": "default-src 'none'",  # of all but the page, which says more
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """Refuses other names of this machine (DNS rebinding) and requests that another page makes; adds headers to each answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if refused := self.why_refused(Headers(scope=scope)):
            await JSONResponse({"error": refused}, 403)(scope, receive, with_headers)
        else:
            await self.app(scope, receive, with_headers)

    def why_refused(self, headers: Headers) -> str:
        """Empty for a request of the page."""
        host = headers.get("host", "")
        if host.partition(":")[0] not in HOSTS:
            return f"this page answers to {' and '.join(HOSTS)} alone."
        same = (None, f"http://{host}")
        if headers.get("origin") not in same or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "another page asked for this."
        return ""


def page_policy(nonce: str) -> str:
    """What the page may do: its own script and style, pictures of here and those that were dropped, requests to here."""
    parts = [f"script-src 'nonce-{nonce}'", f"style-src 'nonce-{nonce}'", "img-src 'self' blob: data:", "connect-src 'self'"]
    return "; ".join(["default-src 'none'", *parts, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
