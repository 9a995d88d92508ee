"""The pages and what they are made of. Every page has a part that is asked for again while it is open."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

import polars as pl
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from pipelines.serving import breakers, decisions, overview, runs, views
from pipelines.serving.desk import Desk, View
from pipelines.serving.exports import csv_of, picked
from pipelines.serving.faults import add_faults
from pipelines.serving.gate import Gate
from pipelines.serving.login import add_login
from pipelines.serving.pages import NAV, stamp, static_files, write

Text: TypeAlias = Annotated[str, Query(max_length=200)]
Moment: TypeAlias = Annotated[str, Query(max_length=40)]
Page: TypeAlias = Annotated[int, Query(ge=1, le=100_000)]
Show: TypeAlias = Literal["all", "risk", "alert", "held", "faults"]
Sort: TypeAlias = Literal["risk", "symbol", "anomaly", "probability", "action", "leverage", "exposure", "faults"]
Tick: TypeAlias = Literal["", "1"]  # a box of a form: "1" where it is ticked
SILENT: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)


def application(desk: Desk) -> Gate:
    """The whole server as an ASGI application, behind its gate."""
    app = FastAPI(title="cascadeguard", docs_url=None, redoc_url=None, openapi_url=None, telemetry=SILENT)
    _add_pages(app, desk)
    _add_exports(app, desk)
    add_login(app, desk)
    add_faults(app)
    return Gate(app, desk.access, lambda: desk.now().timestamp())


def _answer(request: Request, desk: Desk, template: str, view: View, status: int = 200) -> Response:
    """The page, or its part alone for one that is open; nothing where the part has not changed since."""
    here = request.url.path
    shared = {"poll_s": desk.config.serve.poll_s, "nav": NAV, "here": here, "full": here + _query(request)}
    part = write(f"{template}_part", shared | view)
    mark = stamp(part)
    if not request.headers.get("hx-request"):
        return HTMLResponse(write(template, shared | view | {"part": part, "stamp": mark}), status)
    if request.headers.get("x-shown") == mark:
        return Response(status_code=204)
    return HTMLResponse(part, status, headers={"x-stamp": mark})


def _query(request: Request) -> str:
    return f"?{request.url.query}" if request.url.query else ""


def _add_pages(app: FastAPI, desk: Desk) -> None:
    def page(path: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
        return app.api_route(path, methods=["GET", "HEAD"], response_class=HTMLResponse)

    @page("/")
    def show_overview(
        request: Request, *, text: Text = "", venue: Text = "", show: Show = "all", sort: Sort = "risk",
        turned: Tick = "",
    ) -> Response:  # fmt: skip
        chosen = overview.Chosen(text, venue, show, sort, bool(turned))
        return _answer(request, desk, "overview", views.overview_view(desk, chosen))

    @page("/breakers")
    def show_breakers(request: Request, text: Text = "", venue: Text = "", holding: Tick = "") -> Response:
        return _answer(request, desk, "breakers", views.breakers_view(desk, text, venue, holding=bool(holding)))

    @page("/decisions")
    def show_decisions(
        request: Request, *, venue: Text = "", symbol: Text = "", rule: Text = "", action: Text = "",
        start: Moment = "", end: Moment = "", page: Page = 1,
    ) -> Response:  # fmt: skip
        asked = {"venue": venue, "symbol": symbol, "rule": rule, "action": action, "start": start, "end": end}
        return _answer(request, desk, "decisions", views.decisions_view(desk, asked, page))

    @page("/decision")
    def show_decision(request: Request, id: Annotated[str, Query(pattern=r"^[0-9A-Za-z_-]{1,64}$")]) -> Response:
        view = views.decision_view(desk, id)
        return _answer(request, desk, "decision", view, 200 if view["told"] else 404)

    @page("/symbol")
    def show_symbol(request: Request, venue: Text, symbol: Text) -> Response:
        view = views.symbol_view(desk, venue, symbol)
        return _answer(request, desk, "symbol", view, 200 if view["look"] else 404)

    @page("/graph")
    def show_graph(request: Request, venue: Text = "") -> Response:
        return _answer(request, desk, "graph", views.graph_view(desk, venue))

    @page("/runs")
    def show_runs(request: Request, venue: Text = "", state: Literal["", "ok", "failed"] = "") -> Response:
        return _answer(request, desk, "runs", views.runs_view(desk, venue, state))

    @page("/static/{name}")
    def show_static(name: str) -> Response:
        file = static_files().get(name)
        if file is None:
            raise HTTPException(404)
        return Response(file.content, media_type=file.type, headers={"cache-control": "public, max-age=86400"})


def _add_exports(app: FastAPI, desk: Desk) -> None:
    def export(path: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
        return app.api_route(path, methods=["GET", "HEAD"])

    @export("/overview.csv")
    def overview_csv(
        *, text: Text = "", venue: Text = "", show: Show = "all", sort: Sort = "risk", turned: Tick = ""
    ) -> Response:
        board, chosen = desk.board(), overview.Chosen(text, venue, show, sort, bool(turned))
        shown = [*overview.venue_rows(board.rows, venue), *overview.chosen_rows(board.rows, chosen)]
        return _csv("overview", overview.table(board.standing, shown))

    @export("/breakers.csv")
    def breakers_csv(text: Text = "", venue: Text = "", holding: Tick = "") -> Response:
        shown = breakers.chosen(desk.board().breakers, text, venue, holding=bool(holding))
        return _csv("breakers", breakers.table(shown))

    @export("/decisions.csv")
    def decisions_csv(
        *, venue: Text = "", symbol: Text = "", rule: Text = "", action: Text = "", start: Moment = "",
        end: Moment = "",
    ) -> Response:  # fmt: skip
        asked = {"venue": venue, "symbol": symbol, "rule": rule, "action": action, "start": start, "end": end}
        wanted = views.wanted_of(asked)
        rows = desk.reader.read(lambda lake: decisions.found(lake, wanted).head(decisions.EXPORT_ROWS_MAX).collect())
        return _csv("decisions", rows)

    @export("/symbol.csv")
    def symbol_csv(venue: Text, symbol: Text) -> Response:
        if symbol not in desk.symbols().get(venue, []):
            raise HTTPException(404)
        hours = desk.config.serve.history_h
        return _csv("symbol", desk.reader.read(lambda lake: views.symbol_minutes(lake, venue, symbol, hours)))

    @export("/runs.csv")
    def runs_csv(venue: Text = "", state: Literal["", "ok", "failed"] = "") -> Response:
        return _csv("runs", runs.chosen(desk.runs(), venue, state))

    @export("/graph.csv")
    def graph_csv(venue: Text = "") -> Response:
        graph = views.graph_view(desk, venue)["graph"] or {}
        columns = {"source": pl.String, "target": pl.String, "gain_fall": pl.Float64, "gain_rise": pl.Float64}
        return _csv("graph", picked(graph.get("edges", []), columns))


def _csv(name: str, rows: pl.DataFrame) -> Response:
    headers = {"content-disposition": f'attachment; filename="cascadeguard-{name}.csv"'}
    return Response(csv_of(rows), media_type="text/csv; charset=utf-8", headers=headers)
