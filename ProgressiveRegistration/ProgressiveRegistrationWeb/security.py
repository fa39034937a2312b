"""Who may talk to the server: a token everywhere but on loopback, and never another site's page."""

from __future__ import annotations

import asyncio
import hmac
import html
import ipaddress
import secrets
import socket
from urllib.parse import urlsplit

from aiohttp import web
from ProgressiveRegistrationLib.errors import InputError

MIN_TOKEN = 12
WRONG_TOKEN_SECONDS = 0.5  # a guess costs at least this
COOKIE = "progressive-registration"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "SAMEORIGIN",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    # Vue compiles the page's templates in the browser, hence unsafe-eval; nothing comes from elsewhere.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws: wss: blob:; worker-src 'self' blob:; frame-src 'self'; frame-ancestors 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'",
}


def is_loopback(host: str) -> bool:
    """Do all addresses of ``host`` stay on this machine? Unknown names do not."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def check_address(host: str, token: str | None) -> None:
    """InputError for an address that others reach without a token, or a token that is easily guessed."""
    if token is not None and len(token) < MIN_TOKEN:
        raise InputError(f"The token has {len(token)} characters; give at least {MIN_TOKEN}.")
    if token is None and not is_loopback(host):
        raise InputError(
            f"{host} can be reached from other machines: give a --token that users must know, or stay on "
            "127.0.0.1 and let them come through an SSH tunnel."
        )


class Guard:
    """Lets requests in, the websocket's as well, or answers 401 or 403.

    With a token, a request carries it as ``Authorization: Bearer``, or the cookie that the page with
    ``?token=`` (or the form) sets. Without, only a loopback ``Host`` is answered, so that a foreign name
    that points here (DNS rebinding) is not. ``Origin``, where a browser sends it, must be this server's own.
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._session = secrets.token_urlsafe(32)

    @property
    def middleware(self):
        @web.middleware
        async def guard(request: web.Request, handler):
            refused = self._foreign(request)
            if refused is None and self._token is not None and not self._knows(request):
                refused = await self._ask(request)
            try:
                response = refused if refused is not None else await handler(request)
            except ConnectionResetError:  # the browser went away while it was written to
                return web.Response()
            if not response.prepared:
                for name, value in HEADERS.items():
                    response.headers.setdefault(name, value)
            return response

        return guard

    def _foreign(self, request: web.Request) -> web.Response | None:
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        try:
            name, site = urlsplit(f"//{host}").hostname or "", urlsplit(origin or "").netloc
            here = self._token is not None or is_loopback(name)
        except ValueError:  # no addresses at all
            here, site = False, ""
        if not here:
            return web.Response(status=403, text="This server answers to its own address alone.")
        if origin is not None and site != host:
            return web.Response(status=403, text="Another site's page may not use this server.")
        return None

    def _knows(self, request: web.Request) -> bool:
        cookie = _bytes(request.cookies.get(COOKIE, ""))
        given = _bytes(request.headers.get("Authorization", "").removeprefix("Bearer "))
        # both are compared, each in constant time
        return hmac.compare_digest(cookie, self._session.encode()) | hmac.compare_digest(given, self._token)

    async def _ask(self, request: web.Request) -> web.Response:
        given = request.query.get("token")
        if request.method == "POST" and request.path == "/token":
            try:
                given = str((await request.post()).get("token", ""))
            except ValueError:  # no form
                given = ""
        if given is not None and hmac.compare_digest(_bytes(given), self._token):
            response = web.Response(status=303, headers={"Location": "/index.html"})
            response.set_cookie(COOKIE, self._session, httponly=True, samesite="Strict", path="/")
            return response
        if given is not None:
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
        text = "That is not the token." if given is not None else "This server asks for its token."
        return web.Response(status=401, text=_FORM.format(text=html.escape(text)), content_type="text/html")


def _bytes(text: str) -> bytes:
    """What was sent, also where it is no UTF-8."""
    return text.encode(errors="surrogateescape")


_FORM = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Progressive Registration</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 26em; margin: 15vh auto; padding: 0 1em; }}
input, button {{ font: inherit; padding: .4em .6em; }}</style></head>
<body><main><h1>Progressive Registration</h1><p>{text} Whoever started it has it.</p>
<form method="post" action="/token"><label>Token <input name="token" type="password" autofocus></label>
<button>Open</button></form></main></body></html>
"""
