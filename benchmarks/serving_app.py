"""One text a request behind FastAPI, whichever library answers: the server that the traffic benchmark asks.

ENGINE, TASK and FOLDER in the environment say what runs. edgebert answers through its batcher; the others are called
from FastAPI's threads, as an endpoint without ``async`` is, or one call at a time where SERIAL is set: which of the
two is better is theirs to show.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from serving_engines import ENGINES

ENGINE, TASK, FOLDER = (os.environ[name] for name in ("ENGINE", "TASK", "FOLDER"))
SERIAL = os.environ.get("SERIAL") == "1"


class Body(BaseModel):
    """One text."""

    text: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what answers."""
    if ENGINE != "edgebert":
        app.state.answer = ENGINES[TASK][ENGINE].open(FOLDER)
        app.state.turn = threading.Lock() if SERIAL else nullcontext()
        _settle()
        yield
        return
    import edgebert

    with edgebert.load(FOLDER) as model:
        async with edgebert.Batcher(model) as batcher:
            app.state.ask = batcher.predict if TASK == "predict" else batcher.encode
            _settle()
            yield


def _settle() -> None:
    """What is there now stays: Python's collector need not go through all of it again while requests wait."""
    gc.collect()
    gc.freeze()


app = FastAPI(lifespan=lifespan)


def reply(answer: Any) -> JSONResponse:
    """A vector, or a label with its score."""
    if hasattr(answer, "tolist"):
        return JSONResponse(answer.tolist())
    found = answer if isinstance(answer, dict) else {"label": answer.label, "score": answer.score}
    return JSONResponse(found)


if ENGINE == "edgebert":

    @app.post("/ask")
    async def ask(body: Body) -> JSONResponse:
        """Through the batcher."""
        return reply(await app.state.ask(body.text))

else:

    @app.post("/ask")
    def ask_in_a_thread(body: Body) -> JSONResponse:
        """In one of FastAPI's threads."""
        with app.state.turn:
            (answer,) = app.state.answer([body.text])
        return reply(answer)
