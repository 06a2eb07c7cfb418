"""A model behind HTTP: /predict, /embed, /health and /metrics, with FastAPI over ``edgebert.Batcher``.

    pip install 'edgebert[cpu,serve]'
    EDGEBERT_ARTIFACT=edgebert-out/best uvicorn --app-dir examples serve:app

``WEB_CONCURRENCY=2`` makes two workers, each with its own model, batcher and share of the processors. On SIGTERM
uvicorn takes no more connections, and what came before is answered. docs/serving.md says more.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, Field

import edgebert
from edgebert.errors import DeadlinePassed, InputError, Unanswered, UsageError
from edgebert.machine import allowed_threads
from edgebert.serving.prometheus import BatcherCollector

MAX_BODY_BYTES = 1_000_000
MAX_TEXTS = 64
TIMEOUT_MS = 10_000

# What an error means to a client; the first that fits. Everything else is a bug, and 500.
STATUSES = ((DeadlinePassed, 504), (Unanswered, 503), (InputError, 422), (UsageError, 400))


class Texts(BaseModel):
    """The body of a request: texts, or pairs of them."""

    texts: Annotated[list[str | tuple[str, str]], Field(max_length=MAX_TEXTS)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One model and one batcher for each worker; leaving answers all that wait."""
    path = Path(os.environ["EDGEBERT_ARTIFACT"])
    # Workers share the processors that this service may use.
    threads = max(1, allowed_threads() // int(os.environ.get("WEB_CONCURRENCY", "1")))
    with edgebert.load(path, threads=threads) as model:
        async with edgebert.Batcher(model) as batcher:
            registry = CollectorRegistry()
            registry.register(BatcherCollector({path.resolve().name: batcher}))
            app.state.model, app.state.batcher, app.state.registry = model, batcher, registry
            # What is there now stays: each time that Python's collector went through it, requests would wait 40 ms.
            gc.collect()
            gc.freeze()
            yield


class BodyLimit:
    """Refuses a body as soon as it is too long, whatever its headers say."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Count the bytes on their way in."""
        received = 0

        async def counted() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, f"a body of more than {MAX_BODY_BYTES} bytes")
            return message

        await self.app(scope, counted if scope["type"] == "http" else receive, send)


app = FastAPI(title="edgebert", lifespan=lifespan)
app.add_middleware(BodyLimit)


async def each(ask: Callable[..., Awaitable[Any]], texts: Sequence[Any]) -> list[Any]:
    """The answer to each text, in order; an HTTP error that names the first text without one."""
    found = await asyncio.gather(*(ask(text, timeout_ms=TIMEOUT_MS) for text in texts), return_exceptions=True)
    for index, answer in enumerate(found):
        if isinstance(answer, BaseException):
            status = next((status for kind, status in STATUSES if isinstance(answer, kind)), None)
            if status is None:
                raise answer
            headers = {"Retry-After": "1"} if status == 503 else None
            raise HTTPException(status, f"text {index}: {answer}", headers)
    return found


@app.post("/predict")
async def predict(body: Texts, request: Request) -> Response:
    """Label, score and scores of each text."""
    answers = await each(request.app.state.batcher.predict, body.texts)
    return JSONResponse([dataclasses.asdict(answer) for answer in answers])


@app.post("/embed")
async def embed(body: Texts, request: Request) -> Response:
    """A vector for each text."""
    vectors = await each(request.app.state.batcher.encode, body.texts)
    return JSONResponse([vector.tolist() for vector in vectors])


@app.get("/health")
async def health(request: Request) -> Response:
    """What runs here; answered only once the model is loaded."""
    return JSONResponse({"process": os.getpid(), "facts": request.app.state.model.facts()})


@app.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus: the numbers of the worker that answers."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
