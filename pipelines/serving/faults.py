"""Whatever goes wrong is said in words, with what would help; never with a trace."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from pipelines.errors import InputError
from pipelines.serving.pages import NAV, write
from pipelines.serving.reading import UnreadableError


def add_faults(app: FastAPI) -> None:
    """Answers for what the pages may raise."""

    def told(request: Request, status: int, what: str, mend: str = "") -> Response:
        view = {"what": what, "mend": mend}
        name = "fault_part" if request.headers.get("hx-request") else "fault"
        return HTMLResponse(write(name, view | {"nav": NAV, "here": ""}), status)

    @app.exception_handler(UnreadableError)
    async def unreadable(request: Request, error: UnreadableError) -> Response:
        return told(request, 503, error.what, error.mend)

    @app.exception_handler(InputError)
    async def bad_input(request: Request, error: InputError) -> Response:
        return told(request, 400, str(error))

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: Request, error: RequestValidationError) -> Response:
        names = ", ".join(sorted({str(found["loc"][-1]) for found in error.errors()}))
        return told(request, 400, f"Not understood: {names}.")

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        return told(request, 500, "Something went wrong; the server's log says what.")

    @app.exception_handler(HTTPException)
    async def no_such_page(request: Request, error: HTTPException) -> Response:
        what = "There is no such page." if error.status_code == 404 else "This cannot be done."
        return told(request, error.status_code, what)
