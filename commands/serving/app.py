"""The page's addresses.

``GET /`` is the page. ``POST /runs`` asks a method for words, ``POST /runs/N/pictures?name=`` brings it a picture as the body,
``GET /runs/N/labels/I`` and ``overlays/I`` are what came of it, ``POST /runs/N/downloads/WHAT`` makes a zip that ``GET`` gets.
An answer that is no file is JSON, ``{"error": "one line"}`` for a mistake.
"""

from __future__ import annotations

import json
import secrets
import sys
import traceback
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from commands.serving.guard import Guard, page_policy
from commands.serving.work import DOWNLOADS, LABELS, MAX_BYTES, MAX_PICTURES, Workplace
from common.errors import UserError, in_one_line, known
from common.images import MAX_PIXELS, SUFFIXES
from reporting.class_colours import css
from reporting.exports import FORMATS
from reporting.page import environment

MAX_QUESTION = 100_000  # bytes of words and options


def application(work: Workplace) -> Starlette:
    """The page as an ASGI application."""
    handlers: dict[type[Exception], Any] = {UserError: mistake, ClientDisconnect: gone, Exception: failure}
    addresses = [
        ("/", "GET", page),
        ("/runs", "POST", new_run),
        ("/runs/{run:int}/pictures", "POST", new_picture),
        ("/runs/{run:int}/downloads/{what}", "POST", new_download),
        ("/runs/{run:int}/downloads/{what}.zip", "GET", download),
        ("/runs/{run:int}/{kind}/{index:int}", "GET", picture),
    ]
    routes = [Route(path, partial(answer, work), methods=[method]) for path, method, answer in addresses]
    return Starlette(routes=routes, middleware=[Middleware(Guard)], exception_handlers=handlers)


async def page(work: Workplace, request: Request) -> Response:
    nonce = secrets.token_urlsafe(16)
    groups = [(group, list(choices)) for group, choices in groupby(work.choices.values(), lambda choice: choice.group)]
    limits = {"pictures": MAX_PICTURES, "bytes": MAX_BYTES, "pixels": MAX_PIXELS}
    formats = {name: (FORMATS[name].__doc__ or "").split("\n")[0] for name in DOWNLOADS if name != LABELS}
    text = (
        environment()
        .get_template("serve.html.j2")
        .render(nonce=nonce, groups=groups, limits=limits, formats=formats, suffixes=sorted(SUFFIXES))
    )
    return HTMLResponse(text, headers={"content-security-policy": page_policy(nonce)})


async def new_run(work: Workplace, request: Request) -> Response:
    asked = await question(request)
    options = {f"--{key}": str(asked[key]) for key in ("instances", "min_area", "unsure") if asked.get(key) not in (None, "")}
    number, run = await run_in_threadpool(
        work.new_run, str(asked.get("method")), str(asked.get("classes", "")), asked.get("background") is True, options
    )
    colours = dict(zip(run.vocabulary.names, map(css, run.vocabulary.palette.tolist()), strict=True))
    at = run.vocabulary.background
    background = None if at is None else run.vocabulary.names[at]  # whose probability says nothing
    return JSONResponse({"run": number, "method": run.choice.title, "colours": colours, "background": background})


async def new_picture(work: Workplace, request: Request) -> Response:
    number, name = request.path_params["run"], request.query_params.get("name", "")
    await run_in_threadpool(work.run, number)  # which may wait for an export
    path = await run_in_threadpool(work.upload)
    try:
        await receive(request, path)
        return JSONResponse(await run_in_threadpool(work.segment, number, name, path))
    finally:
        path.unlink(missing_ok=True)


async def new_download(work: Workplace, request: Request) -> Response:
    number, what = request.path_params["run"], request.path_params["what"]
    await run_in_threadpool(work.download, number, what)
    return JSONResponse({"href": f"/runs/{number}/downloads/{what}.zip"})


async def download(work: Workplace, request: Request) -> Response:
    what = known("download", request.path_params["what"], DOWNLOADS)
    run = await run_in_threadpool(work.run, request.path_params["run"])
    return file(run.folder / f"{what}.zip", f"zerolabel-{what}.zip")


async def picture(work: Workplace, request: Request) -> Response:
    run, index = await run_in_threadpool(work.run, request.path_params["run"]), request.path_params["index"]
    kind = known("kind of picture", request.path_params["kind"], ("labels", "overlays"))
    if index >= len(run.rows):
        raise UserError(f"there is no picture {index}.")
    name = run.rows[index]["picture"]
    return file(run.out / kind / f"{name}.png", f"{name}.png", "inline")


def file(path: Path, name: str, disposition: str = "attachment") -> Response:
    """Raises UserError for a file that was not made."""
    if not path.is_file():
        raise UserError(f"'{name}' was not made yet.")
    return FileResponse(path, filename=name, content_disposition_type=disposition)


async def question(request: Request) -> dict[str, Any]:
    """The JSON object of the body.

    Raises:
        UserError: something else, or too long.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_QUESTION:
            raise UserError(f"the words are longer than {MAX_QUESTION} bytes; are they a list of words?")
    try:
        asked = json.loads(body)
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise UserError("the question is no JSON object.")
    return asked


async def receive(request: Request, path: Path) -> None:
    """Writes the body to a file as it comes.

    Raises:
        UserError: it is too long; the rest is not read.
    """
    size = 0
    async with await anyio.open_file(path, "wb") as target:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BYTES:
                raise UserError(f"the file is larger than {MAX_BYTES / 1e6:.0f} MB. Make a smaller copy of it.")
            await target.write(chunk)


async def mistake(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def gone(request: Request, error: Exception) -> Response:
    """The browser has stopped to listen."""
    return Response(status_code=400)


async def failure(request: Request, error: Exception) -> Response:
    """What is nobody's mistake but ours; the page goes on."""
    traceback.print_exception(error, file=sys.stderr)
    return JSONResponse({"error": f"{type(error).__name__}: {in_one_line(error)} (more in the terminal)"}, 500)
