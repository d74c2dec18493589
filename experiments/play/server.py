"""The web side of `glimpse play`: a page, its two files, and five calls in JSON.

Starlette, because there is little to serve and much to refuse: routes are fixed, no file is looked
up by what a request says, and every answer is built here. The larger kits (Gradio, NiceGUI) bring
pages, uploads and connections of their own that would have to be closed again.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from experiments.play.game import Game
from experiments.play.session import EventError
from experiments.play.store import FolderFullError, Held, Store
from experiments.runtime.runs import RunError

_LOG = logging.getLogger(__name__)
_MAX_BODY = 2000
_PAGES = {
    "/": ("index.html", "text/html"),
    "/play.css": ("play.css", "text/css"),
    "/play.js": ("play.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Served:
    """Game, store and settings that a server offers."""

    game: Game
    """What is played."""
    store: Store
    """Store of its sessions."""
    title: str
    """What is played, in words."""
    hosts: tuple[str, ...]
    """Names that a browser may call this server by."""


class Refusal(Exception):
    """A call that is not answered as asked."""

    def __init__(self, status: int, reason: str) -> None:
        """Take the status and a sentence."""
        super().__init__(reason)
        self.status = status


def bind(host: str, port: int) -> socket.socket:
    """Take a port to listen on.

    Raises:
        RunError: It is in use, or not to be had; the sentence says what to do.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise RunError(f"{host} is no address of this machine ({error.strerror})") from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(64)
    except OSError as error:
        taken.close()
        raise RunError(
            f"port {port} of {host} cannot be used ({error.strerror}): give another with --port, "
            "0 for any that is free"
        ) from error
    return taken


def make_server(served: Served, taken: socket.socket) -> Any:
    """A `uvicorn.Server` of the application; run it with `sockets=[taken]`."""
    _, uvicorn = require_web()
    config = uvicorn.Config(
        make_app(served, taken.getsockname()[1]),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=64,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
        proxy_headers=False,
    )
    return uvicorn.Server(config)


def require_web() -> tuple[Any, Any]:
    """Import Starlette and uvicorn.

    Raises:
        RunError: They are not installed.
    """
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise RunError(
            '`glimpse play` is served by Starlette and uvicorn: pip install "glimpse-env[play]"'
        ) from error
    return starlette, uvicorn


def make_app(served: Served, port: int) -> Any:
    """The application, to be served on a port."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    calls = Calls(served)
    cookie = f"glimpse-play-{port}"  # cookies are shared by all ports of a host
    folder = files("experiments.play") / "static"
    pages = {
        path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in _PAGES.items()
    }

    async def page(request: Request) -> Response:
        content, kind = pages[request.scope["path"]]
        return Response(content, media_type=kind)

    def as_json(content: Any, status: int = 200) -> Response:
        # In ASCII: names of files need not be UTF-8.
        return Response(json.dumps(content), status, media_type="application/json")

    def call(answer: Callable[[Held, dict[str, Any]], dict[str, Any]]) -> Any:
        async def endpoint(request: Request) -> Response:
            token = request.cookies.get(cookie)
            try:
                asked = await _read(request) if request.method == "POST" else {}
                begin = request.method == "GET"
                shown, fresh = await run_in_threadpool(calls.run, answer, token, asked, begin)
            except Refusal as refusal:
                return as_json({"error": str(refusal)}, refusal.status)
            response = as_json(shown)
            if fresh is not None:
                response.set_cookie(
                    cookie,
                    fresh,
                    max_age=int(served.store.keep_seconds),
                    httponly=True,
                    samesite="strict",
                    path="/",
                )
            return response

        return endpoint

    async def failed(request: Request, error: Exception) -> Response:
        _LOG.error("a call to %s failed", request.scope["path"], exc_info=error)
        return as_json({"error": "the server made a mistake; its log says which"}, 500)

    class Headers:
        """Adds what a browser must know to every answer."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def sending(message: Any) -> None:
                if message["type"] == "http.response.start":
                    extra = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                    message = {**message, "headers": [*message.get("headers", []), *extra]}
                await send(message)

            await self.app(scope, receive, sending if scope["type"] == "http" else send)

    async def _read(request: Request) -> dict[str, Any]:
        _check_origin(request.headers)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MAX_BODY:
                raise Refusal(413, "the call is too long")
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "the call is no JSON") from error
        if not isinstance(asked, dict):
            raise Refusal(400, "the call is no object")
        return asked

    return Starlette(
        routes=[
            *(Route(path, page) for path in pages),
            Route("/api/state", call(calls.state)),
            Route("/api/look", call(calls.look), methods=["POST"]),
            Route("/api/answer", call(calls.answer), methods=["POST"]),
            Route("/api/next", call(calls.next), methods=["POST"]),
        ],
        middleware=[
            Middleware(Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(served.hosts), www_redirect=False),
        ],
        exception_handlers={Exception: failed},
    )


def _check_origin(headers: Any) -> None:
    """Refuse what another site's page sends.

    Raises:
        Refusal: The call's origin is not this server, or not told, or it is no JSON.
    """
    origin, host = headers.get("origin"), headers.get("host")
    if origin not in (f"http://{host}", f"https://{host}"):
        raise Refusal(403, "calls are taken from this server's own page only")
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise Refusal(403, "calls are taken from this server's own page only")
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refusal(415, "calls are JSON")


class Calls:
    """The five calls, on the sessions of a store."""

    def __init__(self, served: Served) -> None:
        """Take what is served."""
        self.served, self.game, self.store = served, served.game, served.store

    def run(
        self,
        answer: Callable[[Held, dict[str, Any]], dict[str, Any]],
        token: str | None,
        asked: dict[str, Any],
        begin: bool,
    ) -> tuple[dict[str, Any], str | None]:
        """Answer a call of the session of a token, or of a new one.

        Returns:
            The answer, and the token of a session that was begun.

        Raises:
            Refusal: There is no such session, or the call does not fit it.
        """
        held, fresh = self.store.find(token), None
        if held is None:
            if not begin:
                raise Refusal(401, "your session is over, or cookies are off: load the page again")
            fresh, held = self.store.begin()
        with held.lock:
            try:
                self._begin_first(held)
                return answer(held, asked), fresh
            except EventError as error:
                # Two tabs, or a click that came twice: the page shows what is, and goes on.
                raise Refusal(409, str(error)) from error
            except FolderFullError as error:
                raise Refusal(503, str(error)) from error
            except OSError as error:
                _LOG.error("a session could not be written or its image read: %s", error)
                raise Refusal(500, f"the server cannot go on: {error.strerror or error}") from error

    def state(self, held: Held, asked: dict[str, Any]) -> dict[str, Any]:
        """Return what there is to do, with what never changes."""
        game = self.game
        task = {
            "title": self.served.title,
            "breeds": list(game.dataset.class_names),
            "glimpses": game.rules.num_glimpses,
            "resolutions": list(game.resolutions),
            "agent": game.player is not None,
            "truth": game.truth_known,
            "days": round(self.store.keep_seconds / 86400, 1),
        }
        return self._show(held) | {"task": task}

    def look(self, held: Held, asked: dict[str, Any]) -> dict[str, Any]:
        """Look at a place."""
        event = {name: asked.get(name) for name in ("episode", "look", "x", "y")}
        self._append(held, {"kind": "look", **event})
        return self._show(held)

    def answer(self, held: Held, asked: dict[str, Any]) -> dict[str, Any]:
        """Name a breed; the agent plays too."""
        event = {"kind": "answer", "episode": asked.get("episode"), "label": asked.get("label")}
        if held.session.phase == "answer":
            event |= self.game.outcome(held.session.current.image)
        self._append(held, event)
        return self._show(held)

    def next(self, held: Held, asked: dict[str, Any]) -> dict[str, Any]:
        """Go on to another image."""
        image = self.game.next_image(held.session, held.key)
        if image is None:
            raise Refusal(409, "you have played every image")
        self._append(held, {"kind": "begin", "episode": asked.get("episode"), "image": image})
        return self._show(held)

    def _begin_first(self, held: Held) -> None:
        """Begin a session's first episode; it is written with the first look."""
        if not held.session.episodes:
            image = self.game.next_image(held.session, held.key)
            held.session.apply({"kind": "begin", "episode": 0, "image": image})
            held.since = time.monotonic()

    def _append(self, held: Held, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if held.since is not None:
            event["seconds"] = round(now - held.since, 3)
        self.store.append(held, event)
        held.since = now

    def _show(self, held: Held) -> dict[str, Any]:
        return self.game.show(held.session)
