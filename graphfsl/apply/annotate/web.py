"""The addresses of the labelling page; each asks the workbench."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from graphfsl.apply.annotate import label_studio
from graphfsl.apply.annotate.answer_store import NotStored
from graphfsl.apply.annotate.exports import export, exported
from graphfsl.apply.annotate.guard import Guard, Keys
from graphfsl.apply.annotate.pictures import SIDES, Pictures
from graphfsl.apply.annotate.workbench import Conflict, Workbench
from graphfsl.apply.label.pool_files import EXPORTS
from graphfsl.io.errors import InputError

STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
PROGRAM = "label-studio"  # whose token is asked for by /label-studio/
YEAR = "private, max-age=31536000, immutable"  # a picture's address names its version

Action = Callable[[str, Mapping[str, Any]], Any]


def make_app(bench: Workbench, keys: Keys, out: Path, folder: Path, host: str, port: int) -> Any:
    """The web application, as ASGI.

    Args:
        bench: the pool.
        keys: the tokens.
        out: where exports go.
        folder: of the images.
        host: where it is served.
        port: of it.

    Raises:
        InputError: where Starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ImportError:
        raise missing() from None
    page = _Page(bench, keys, out, folder, port)
    own = "/u/{user}"
    routes = [
        Route("/", page.nowhere),
        Route(own + "/", page.page),
        Route(own + "/{file}", page.static),
        Route(own + "/picture/{n:int}/{kind}", page.picture),
        Route(own + "/api/{question}", page.ask, methods=["GET"]),
        Route(own + "/api/{action}", page.act, methods=["POST"]),
        Route("/label-studio/{token}/{question}", page.label_studio, methods=["GET", "POST"]),
        Route("/label-studio/{token}", page.label_studio, methods=["GET"]),
    ]
    return Guard(Starlette(routes=routes), host, port)


def missing() -> InputError:
    """What to do where the packages of the page are not installed."""
    return InputError("annotate needs Starlette and uvicorn: pip install 'graphfsl[annotate]'")


def address(keys: Keys, user: str, host: str, port: int) -> str:
    """The address that lets a person in."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}{own_path(user)}?token={keys.of(user)}"


def own_path(user: str) -> str:
    """The path of a person's page."""
    return f"/u/{quote(user, safe='')}/"


class _Page:
    """The answers to requests. What computes runs in a thread, so that others are not kept."""

    def __init__(self, bench: Workbench, keys: Keys, out: Path, folder: Path, port: int) -> None:
        self._bench, self._keys, self._out, self._folder = bench, keys, out, folder
        self._cookie = f"graphfsl-{port}"  # cookies of one host are sent to all of its ports
        self._pictures = Pictures(bench.pool)
        self._questions: dict[str, Action] = {
            "summary": self._summary,
            "classes": self._classes,
            "grid": self._grid,
            "screen": lambda user, _: bench.restored(user),
            "history": lambda user, _: {"events": bench.history()},
        }
        self._actions: dict[str, Action] = {
            "deal": self._deal,
            "answer": self._answer,
            "undo": self._undo,
            "class": self._class,
            "screen": self._keep_screen,
            "audit": self._audit,
            "export": self._export,
        }

    # Pages and pictures

    async def nowhere(self, request: Any) -> Any:
        """There is nothing at the root: each person has an address of their own."""
        return _text("Open the address that graphfsl annotate printed.", 404)

    async def page(self, request: Any) -> Any:
        """The page; a token in the address becomes a cookie, and leaves the address."""
        from starlette.responses import RedirectResponse, Response

        user = request.path_params["user"]
        token = request.query_params.get("token")
        if token is not None:
            if user not in self._bench.users or not self._keys.fits(user, token):
                return _text("This token is not of this page; take the address anew.", 403)
            path = own_path(user)
            answer: Any = RedirectResponse(path, 303, {"cache-control": "no-store"})
            answer.set_cookie(self._cookie, token, path=path, httponly=True, samesite="strict")
            return answer
        if not self._may(request):
            return self._locked()
        return Response(_static("page.html"), media_type="text/html", headers=_fresh())

    async def static(self, request: Any) -> Any:
        """The page's script and looks."""
        from starlette.responses import Response

        if not self._may(request):
            return self._locked()
        file = request.path_params["file"]
        if file not in STATIC:
            return _text("There is no such file.", 404)
        return Response(_static(file), media_type=STATIC[file], headers=_fresh())

    async def picture(self, request: Any) -> Any:
        """A sample's picture, by number."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import Response

        if not self._may(request):
            return self._locked()
        n, kind = request.path_params["n"], request.path_params["kind"]
        if kind not in SIDES or n >= len(self._bench.pool.names):
            return _text("There is no such picture.", 404)
        version = self._bench.files.version(n)
        try:
            data = await run_in_threadpool(self._pictures.jpeg, n, kind, version)
        except InputError as error:
            return _text(str(error), 404)
        same = request.query_params.get("v") == version
        headers = {"cache-control": YEAR if same else "no-store"}
        return Response(data, media_type="image/jpeg", headers=headers)

    # Questions and actions

    async def ask(self, request: Any) -> Any:
        """Something that changes nothing."""
        if not self._may(request):
            return self._locked()
        question = self._questions.get(request.path_params["question"])
        if question is None:
            return _text("There is no such question.", 404)
        return await self._told(question, request.path_params["user"], dict(request.query_params))

    async def act(self, request: Any) -> Any:
        """Something that changes the pool's answers, or a person's screen."""
        if not self._may(request):
            return self._locked()
        action = self._actions.get(request.path_params["action"])
        if action is None:
            return _text("There is no such action.", 404)
        body = await _body(request)
        if body is None:
            return _json({"error": "the request is no JSON object"}, 400)
        return await self._told(action, request.path_params["user"], body)

    async def label_studio(self, request: Any) -> Any:
        """The protocol of Label Studio's ML backends, at an address that holds its own token."""
        if not self._keys.fits(PROGRAM, request.path_params["token"]):
            return self._locked()
        question = request.path_params.get("question", "health")
        if request.method == "GET":
            known = question == "health"
            return _json(label_studio.health()) if known else _json({}, 404)
        body = await _body(request)
        if body is None:
            return _json({"error": "the request is no JSON object"}, 400)
        if question == "setup":
            return _json(label_studio.setup())
        if question != "predict":
            return _json({}, 404)

        def predict(_: str, asked: Mapping[str, Any]) -> Any:
            return label_studio.predict(self._bench, asked, self._folder.resolve().name)

        return await self._told(predict, PROGRAM, body)

    async def _told(self, action: Action, user: str, body: Mapping[str, Any]) -> Any:
        from starlette.concurrency import run_in_threadpool

        try:
            return _json(await run_in_threadpool(action, user, body))
        except Conflict as conflict:
            tiles = [self._bench.tile(n, user, "class") for n in conflict.samples]
            return _json({"error": str(conflict), "tiles": tiles}, 409)
        except NotStored as error:
            return _json({"error": str(error)}, 507)
        except InputError as error:
            return _json({"error": str(error)}, 400)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            return _json({"error": f"the request cannot be understood ({error})"}, 400)

    def _may(self, request: Any) -> bool:
        user = request.path_params["user"]
        known = user in self._bench.users
        return self._keys.fits(user, request.cookies.get(self._cookie)) and known

    def _locked(self) -> Any:
        return _text("Open the address that graphfsl annotate printed: it lets you in.", 401)

    # What is asked

    def _summary(self, user: str, query: Mapping[str, Any]) -> Any:
        told = self._bench.summary(user, float(query.get("bar", 0.9)))
        return {**told, "folder": str(self._folder)}

    def _classes(self, user: str, query: Mapping[str, Any]) -> Any:
        found = self._bench.classes(query.get("text", ""), int(query.get("limit", 50)))
        return {"classes": found}

    def _grid(self, user: str, query: Mapping[str, Any]) -> Any:
        sample = query.get("sample")
        return self._bench.grid(
            user,
            query.get("view", ""),
            query.get("of"),
            query.get("order", "sure"),
            float(query.get("low", 0)),
            float(query.get("high", 1)),
            None if sample is None else int(sample),
            int(query.get("offset", 0)),
            int(query.get("limit", 60)),
        )

    # What is done

    def _deal(self, user: str, body: Mapping[str, Any]) -> Any:
        return {"tiles": self._bench.deal(user, body.get("count", 24), body.get("shown", ()))}

    def _answer(self, user: str, body: Mapping[str, Any]) -> Any:
        view = str(body.get("view", "next"))
        samples = self._bench.answer(
            user,
            body["answers"],
            view,
            body.get("audit"),
            bool(body.get("bulk", False)),
            body.get("request"),
        )
        return self._tiles(samples, user, view)

    def _undo(self, user: str, body: Mapping[str, Any]) -> Any:
        what, samples = self._bench.undo(user, body.get("request"))
        return {"what": what, **self._tiles(samples, user, str(body.get("view", "next")))}

    def _tiles(self, samples: list[int], user: str, view: str) -> dict[str, Any]:
        shown = samples[:200]
        return {"tiles": [self._bench.tile(n, user, view) for n in shown]}

    def _class(self, user: str, body: Mapping[str, Any]) -> Any:
        fields = {key: body[key] for key in ("class", "name", "into") if key in body}
        action = str(body.get("action", ""))
        own = self._bench.change_class(user, action, body.get("request"), **fields)
        return {"class": own}

    def _keep_screen(self, user: str, body: Mapping[str, Any]) -> Any:
        self._bench.keep_screen(user, body)
        return {}

    def _audit(self, user: str, body: Mapping[str, Any]) -> Any:
        return {"audit": self._bench.audit(user, body.get("count", 100), body.get("request"))}

    def _export(self, user: str, body: Mapping[str, Any]) -> Any:
        bar, validation = float(body.get("bar", 0.9)), float(body.get("validation", 0.2))
        called = self._bench.summary(user, bar)["called"]
        samples = exported(self._bench, bar)
        links = bool(body.get("links", True))
        made = export(self._out / EXPORTS, samples, called, validation, links)
        counted = [sample for sample in samples if sample.counts]
        given = sum(sample.given for sample in counted)
        return {
            "folder": str(made),
            "given": given,
            "predicted": len(counted) - given,
            "gone": sum(sample.is_gone for sample in samples),
        }


def _static(name: str) -> bytes:
    return (resources.files("graphfsl.apply.annotate") / "static" / name).read_bytes()


def _fresh() -> dict[str, str]:
    return {"cache-control": "no-store"}


def _text(line: str, status: int) -> Any:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(f"{line}\n", status, _fresh())


def _json(value: Any, status: int = 200) -> Any:
    from starlette.responses import Response

    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    data = text.encode(errors="backslashreplace")
    return Response(data, status, _fresh(), "application/json")


async def _body(request: Any) -> dict[str, Any] | None:
    """The JSON object of a request; None where it is none."""
    try:
        value = json.loads(await request.body())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
