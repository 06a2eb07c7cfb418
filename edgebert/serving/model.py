"""``edgebert.load``: an artifact as an object that answers. No torch, no transformers, no network."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgebert.artifact import Artifact, Pooling, problem_of, width_of
from edgebert.errors import EdgebertError, InputError, ItemError, UsageError
from edgebert.families import FAMILIES
from edgebert.files import private_folder
from edgebert.graph_guard import EXTERNAL, GRAPH
from edgebert.quotes import LONGEST
from edgebert.registry import Target, target_named
from edgebert.runtimes.lanes import Lanes, open_with_lanes
from edgebert.runtimes.session import Session, SessionConfig, closed
from edgebert.serving.answers import READERS, Float, Found, Prediction, normalized, pool
from edgebert.serving.blanks import Blank, Guess, likeliest
from edgebert.serving.choice import Choice, opened
from edgebert.serving.entities import Entity, entities_of, word_labels
from edgebert.serving.golden import prove
from edgebert.serving.questions import Answer, answer_of
from edgebert.serving.tokens import Batch, Overflow, Text, TextTokenizer, Tokens, batches
from edgebert.spans import Place, joined
from edgebert.tasks import TASKS, Use

log = logging.getLogger("edgebert")

Answers = list[Prediction] | Float | list[Found[Entity]] | list[Answer] | list[Found[Blank]]
T = TypeVar("T")
_WANTED: dict[Use, str] = {
    "predict": "a classifier",
    "encode": "an encoder",
    "tag": "a tagger",
    "answer": "a model that answers questions",
    "fill": "a masked model",
}

_ALL_THREADS = SessionConfig()
# Tokens in one batch, padding included. See benchmarks/batch_tokens.py for where it comes from.
MAX_BATCH_TOKENS = 256


def load(
    path: str | os.PathLike[str],
    target: str | None = None,
    threads: int | None = None,
    max_length: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    trust_engine: bool = False,
    overflow: Overflow | None = None,
) -> Model:
    """Open an artifact for answering; of a folder of several, the best that can run here (``serving/choice.py``).

    ``target`` defaults to the one it was made for, and of several leaves those made for it alone;
    ``threads`` defaults to all that this process may use, ``max_length`` (tokens, specials included) to the
    model's own. ``cache_dir`` and ``trust_engine`` concern targets that compile engines; the folder is made (0700)
    where there is none. ``overflow`` is what becomes of texts longer than ``max_length``: ``truncate`` cuts them,
    ``error`` raises ItemError, ``chunk`` reads them in windows that overlap: logits and vectors are averaged by the
    tokens that each window speaks for, tokens are tagged where most stands around them, and of answers to questions
    the best counts. Unless it is said, texts are cut, and contexts of questions read in windows.

    The artifact first proves itself on its golden vectors: what it answers here must be what it answered where it was
    made. Raises InputError for a folder that is no sound artifact, EnvironmentMissing where the target cannot
    run here or others can write to ``cache_dir``, CheckFailed where answers are others.
    """
    cache = None if cache_dir is None else private_folder(Path(cache_dir))
    config = SessionConfig(threads, cache_dir=cache, trust_engine=trust_engine)
    model = open_model(path, target, config, max_length, overflow)
    try:
        artifact = model.artifact
        prove(artifact, model.run, same_engine=_same_engine(artifact, target))
    except EdgebertError:
        model.close()
        raise
    return model


def open_model(
    path: str | os.PathLike[str],
    target: str | None = None,
    config: SessionConfig = _ALL_THREADS,
    max_length: int | None = None,
    overflow: Overflow | None = None,
) -> Model:
    """:func:`load`, for those who judge what it answers themselves: golden vectors are not asked."""
    artifact, choice = opened(Path(path), target)
    chosen = _target(artifact, target)
    if (chosen.name == "torch") != (artifact.manifest.format == "torch"):
        raise UsageError(
            f"target {chosen.name} cannot run this {artifact.manifest.format} artifact",
            str(path),
            "leave target out",
        )
    # Whole or not at all: also a file that serving has no use for. The runtime reads the graph, once.
    artifact.check_files(but=(GRAPH, EXTERNAL))
    tokenizer = TextTokenizer(artifact, max_length, overflow)
    engine = chosen.resolve()
    session = open_with_lanes(engine, artifact, config) if chosen.lanes else engine(artifact, config)
    return Model(artifact, session, tokenizer, choice)


def _same_engine(artifact: Artifact, target: str | None) -> bool:
    """Whether the golden answers are of the engine that runs now: one that was never executed gave none."""
    match artifact.manifest.checks.get("engine"):
        case {"executed": False}:
            return False
    return target in (None, artifact.manifest.target)


def _target(artifact: Artifact, name: str | None) -> Target:
    try:
        return target_named(name or artifact.manifest.target)
    except UsageError as error:
        if name is not None:
            raise
        raise InputError(f"the manifest has an {error.what}", str(artifact.path), "name a target") from None


class Model:
    """An open artifact. Safe to call from several threads at once; close it, or use it as a context."""

    def __init__(
        self, artifact: Artifact, session: Session, tokenizer: TextTokenizer, choice: Choice | None = None
    ) -> None:
        self.artifact = artifact
        self.choice = choice
        self.tokenizer = tokenizer
        self._session: Session | None = session
        self._lanes = session.count if isinstance(session, Lanes) else 1
        self._task = TASKS[artifact.manifest.task]
        self._problem = problem_of(artifact.manifest)
        self._said_truncated = False
        # Tokens of texts, and of the batches that they were given to the engine in.
        self._tokens = self._given = 0

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """Label, score and scores of each text (or pair), in order; of a regression, the value as ``score``."""
        self.require("predict")
        return self._predictions(self.tokenize(texts))

    def logits(self, texts: Sequence[Text]) -> Float:
        """float32 [n, labels]: the head's output before softmax or sigmoid; of a regression, the values.

        Says once, in the log, that texts were cut.
        """
        self.require("predict")
        return self._logits(self._told(self.tokenize(texts)))

    def encode(self, texts: Sequence[Text]) -> Float:
        """float32 [n, hidden]: one vector a text, pooled and normalized as the encoder was trained.

        Says once, in the log, that texts were cut; :meth:`tokenize` says of each text whether it was, and in how
        many windows it is read.
        """
        self.require("encode")
        return self._vectors(self._told(self.tokenize(texts)))

    def tag(self, texts: Sequence[str]) -> list[Found[Entity]]:
        """The entities of each text, in the order they stand in it, with their places in characters.

        A word's label is its first token's; labels are read as IOB2 (``B-`` begins, ``I-`` continues), and a label
        of neither kind is an entity of one word. Each list says whether its text was ``truncated``, and its ``chunks``.
        """
        self.require("tag")
        return self._entities(self.tokenize(texts))

    def tag_words(self, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        """One label for each of the words that texts are given as; ``O`` for words beyond what the model reads."""
        self.require("tag")
        laid_out = [joined(words) for words in texts]
        tokens = self._told(self.tokenize([text for text, _ in laid_out]))
        names, logits = self.artifact.manifest.labels, self._token_logits(tokens)
        return [
            word_labels(rows, item, places, names)
            for rows, item, (_, places) in zip(logits, tokens, laid_out, strict=True)
        ]

    def answer(
        self, questions: Sequence[tuple[str, str]], top_k: int = 1, max_answer_tokens: int = LONGEST
    ) -> list[Answer]:
        """The answer to each (question, context): a stretch of the context of at most ``max_answer_tokens`` tokens.

        Contexts of any length are read, in windows that overlap. ``top_k`` - 1 next best answers are its ``others``.
        Raises ItemError for what is no pair.
        """
        self.require("answer")
        for name, value in (("top_k", top_k), ("max_answer_tokens", max_answer_tokens)):
            if value < 1:
                raise UsageError(f"{name} is {value}", name, "give at least 1")
        return self._answered(self.tokenize(questions), top_k, max_answer_tokens)

    def fill(self, texts: Sequence[str], top_k: int = 5) -> list[Found[Blank]]:
        """The ``top_k`` likeliest tokens for every mask token of each text (``[MASK]``, roberta's ``<mask>``).

        Each list says whether its text was ``truncated``, and its ``chunks``.
        Raises ItemError for a text without one, or whose only one is cut off.
        """
        self.require("fill")
        if top_k < 1:
            raise UsageError(f"the {top_k} likeliest tokens", "top_k", "ask for at least one")
        found = self._blanks(self.tokenize(texts), top_k)
        for index, blanks in enumerate(found):
            if not blanks:
                mask = FAMILIES[self.artifact.manifest.architecture.family].mask_token
                raise ItemError(index, "nothing to fill in what the model reads", f"write {mask} for the missing word")
        return found

    def best_tokens(self, tokens: list[Tokens]) -> list[list[int]]:
        """The ids of the likeliest tokens for the mask tokens of each text, in order."""
        self.require("fill")
        return self._at_masks(tokens, lambda logits, place: int(logits.argmax()))

    def tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        """The first half of an answer, apart, for those who time or reuse it, or ask what was ``truncated``.

        Raises ItemError for an item that the task does not take.
        """
        if isinstance(texts, (str, bytes)):
            raise UsageError("one text where a list is expected", repr(texts[:20]), "pass [text]")
        if not isinstance(texts, Sized):
            raise UsageError(f"{type(texts).__name__} where a list is expected", "texts", "pass list(texts)")
        tokens = self.tokenizer.encode(texts)
        for index, item in enumerate(texts):
            pair = isinstance(item, tuple)
            if self._task.asks and not pair:
                raise ItemError(index, "one text where a question and its context are expected", "pass a pair")
            if self._task.points and pair and not self._task.asks:
                raise ItemError(index, "a pair where a text is expected", "pass one text")
        return tokens

    def finish(self, tokens: list[Tokens]) -> Answers:
        """The second half: what the task's own method makes of tokenized texts."""
        finishes: dict[Use, Callable[[list[Tokens]], Answers]] = {
            "predict": self._predictions,
            "encode": self._vectors,
            "tag": self._entities,
            "answer": self._answered,
            "fill": self._blanks,
        }
        return finishes[self._task.use](tokens)

    def _predictions(self, tokens: list[Tokens]) -> list[Prediction]:
        read = READERS[self._problem.data]
        return read(self._logits(tokens), self.artifact.manifest.labels, tokens)

    def _entities(self, tokens: list[Tokens]) -> list[Found[Entity]]:
        names, logits = self.artifact.manifest.labels, self._token_logits(tokens)
        return [Found(entities_of(rows, item, names), item) for rows, item in zip(logits, tokens, strict=True)]

    def _answered(self, tokens: list[Tokens], top_k: int = 1, longest: int = LONGEST) -> list[Answer]:
        found = self._by_window(tokens, lambda rows, window: rows[: len(window)])
        return [answer_of(rows, item, top_k, longest) for rows, item in zip(found, tokens, strict=True)]

    def _blanks(self, tokens: list[Tokens], top_k: int = 5) -> list[Found[Blank]]:
        def blank(logits: Float, place: Place) -> Blank:
            found = likeliest(logits, top_k)
            return Blank(*place, tuple(Guess(self.tokenizer.text_of(token), score) for token, score in found))

        return [Found(blanks, item) for blanks, item in zip(self._at_masks(tokens, blank), tokens, strict=True)]

    def _at_masks(self, tokens: list[Tokens], make: Callable[[Float, Place], T]) -> list[list[T]]:
        """What ``make`` makes of the logits [vocab] and the place of each mask token, by text."""
        mask = self.tokenizer.mask_id

        def pick(rows: Float, window: Tokens) -> list[T]:
            found = (i for i in range(*window.told.indices(len(window))) if window.ids[i] == mask)
            return [make(rows[i], window.places[i]) for i in found]

        parts = self._by_window(tokens, pick)
        return [[made for part in window for made in part] for window in parts]

    def _vectors(self, tokens: list[Tokens]) -> Float:
        pooling = self.artifact.manifest.pooling or Pooling("mean", normalize=False)
        width = self.artifact.manifest.architecture.hidden
        vectors = self._batched(tokens, width, lambda out, feed: pool(out, feed["attention_mask"], pooling.mode))
        return normalized(vectors) if pooling.normalize else vectors

    def _told(self, tokens: list[Tokens]) -> list[Tokens]:
        """The same tokens, after saying once that some texts were cut: an array has no place to say it."""
        cut = sum(item.truncated for item in tokens)
        if cut and not self._said_truncated:
            self._said_truncated = True
            longest = self.tokenizer.max_length
            log.warning("%d of %d texts were cut to %d tokens (said once)", cut, len(tokens), longest)
        return tokens

    def cost(self, tokens: Tokens) -> int:
        """Tokens that the engine computes for one item alone."""
        fixed = self.artifact.manifest.fixed
        return sum(fixed[1] if fixed else len(window) for window in tokens.windows)

    @property
    def at_once(self) -> int:
        """How many batches it is worth to have answered at once, from as many threads."""
        return self._lanes

    @property
    def batch_tokens(self) -> int:
        """Tokens in one call to the engine, padding included, above which it gains nothing."""
        fixed = self.artifact.manifest.fixed
        return fixed[0] * fixed[1] if fixed else MAX_BATCH_TOKENS

    def run(self, feed: Batch) -> npt.NDArray[Any]:
        """The graph's outputs for arrays that are already tokens, as :meth:`tokenizer.collate` makes them.

        A single output is the engine's own array, not copied; several are joined on a new last axis.
        """
        # Another thread may close the model between two looks at it.
        session = self._session
        if session is None:
            raise closed(self.artifact)
        return self._task.joined(session.run(feed))

    def facts(self) -> dict[str, Any]:
        """What really runs here: artifact, runtime, version, provider, threads; ``padding``, as a share of all tokens.

        Of a folder of several artifacts also ``choice``: why this one, and why not each of the others.
        """
        manifest = self.artifact.manifest
        session = self._session
        engine = session.facts() if session else {}
        # What batches were padded with to their longest text, and the engine to the lengths that it has.
        used = (self._tokens / self._given if self._given else 1.0) * (1 - engine.get("padding", 0.0))
        return {
            "artifact": str(self.artifact.path),
            "digest": self.artifact.digest,
            "precision": manifest.precision,
            **({"choice": self.choice.facts()} if self.choice else {}),
            **engine,
            "padding": round(1 - used, 4),
        }

    def close(self) -> None:
        """Release the runtime. A closed model answers with InputError; closing twice does nothing."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _logits(self, tokens: list[Tokens]) -> Float:
        return self._batched(tokens, len(self.artifact.manifest.labels), lambda out, feed: out)

    def _token_logits(self, tokens: list[Tokens]) -> list[Float]:
        """float32 [tokens, labels] of each text: all its tokens, each once."""
        parts = self._by_window(tokens, lambda rows, window: rows[window.told])
        return [np.concatenate(part) for part in parts]

    def _by_window(self, tokens: list[Tokens], pick: Callable[[Float, Tokens], T]) -> list[list[T]]:
        """What ``pick`` takes of the outputs [sequence, width] of each window of each text."""
        width = width_of(self.artifact.manifest)
        places = [(text, window) for text, item in enumerate(tokens) for window in item.windows]
        windows = [window for _, window in places]
        picked: dict[int, T] = {}

        def compute(rows: Sequence[int]) -> None:
            feed = self._collated([windows[i] for i in rows])
            found = self._checked(self.run(feed), (*feed["input_ids"].shape, width))
            picked.update({index: pick(row, windows[index]) for index, row in zip(rows, found, strict=True)})

        self._each(batches(windows, MAX_BATCH_TOKENS), compute)
        result: list[list[T]] = [[] for _ in tokens]
        for index, (text, _) in enumerate(places):
            result[text].append(picked[index])
        return result

    def _collated(self, windows: Sequence[Tokens]) -> Batch:
        feed = self.tokenizer.collate(windows)
        # Without a lock: calls at once may lose a count, and a share needs no more.
        self._tokens, self._given = self._tokens + sum(map(len, windows)), self._given + feed["input_ids"].size
        return feed

    def _checked(self, found: Float, shape: tuple[int, ...]) -> Float:
        if found.shape != shape:
            what = f"the graph answers {found.shape} where {shape} is declared"
            raise InputError(what, str(self.artifact.path), "export the artifact again")
        return found

    def _batched(self, tokens: list[Tokens], width: int, finish: Any) -> Float:
        """Run length-sorted batches and put the rows back in the caller's order, one a text."""
        windows = [window for item in tokens for window in item.windows]
        result = np.empty((len(windows), width), dtype=np.float32)

        def compute(rows: Sequence[int]) -> None:
            feed = self._collated([windows[i] for i in rows])
            result[rows] = self._checked(finish(self.run(feed), feed), (len(rows), width))

        self._each(self._groups(windows), compute)
        return result if len(windows) == len(tokens) else averaged(result, tokens)

    def _each(self, groups: Iterable[Sequence[int]], compute: Callable[[Sequence[int]], None]) -> None:
        """Compute every batch: where the engine has lanes, as many at once; the longest first, which end together."""
        order = list(groups)[::-1]
        if self._lanes == 1 or len(order) == 1:
            for rows in order:
                compute(rows)
            return
        with ThreadPoolExecutor(min(self._lanes, len(order)), "edgebert-lane") as pool:
            try:
                for _ in pool.map(compute, order):
                    pass
            except BaseException:
                # One error is enough: what has not begun shall not.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _groups(self, windows: Sequence[Tokens]) -> Iterator[Sequence[int]]:
        """Indices of the windows of each call."""
        fixed = self.artifact.manifest.fixed
        if fixed is None:
            return batches(windows, MAX_BATCH_TOKENS)
        # Every call costs the same, so that only full ones are worth it.
        return (range(len(windows))[start : start + fixed[0]] for start in range(0, len(windows), fixed[0]))

    def require(self, use: Use) -> None:
        """Raise UsageError, with what to call instead, where this model's task has another use."""
        if self._task.use != use:
            wanted = _WANTED[use]
            where = f"{self.artifact.path} is for {self._task.name}"
            raise UsageError(f"this is not {wanted}", where, f"load {wanted}, or call {self._task.use}")


def averaged(rows: Float, tokens: Sequence[Tokens]) -> Float:
    """Rows [windows, d] to rows [texts, d]: each text's windows averaged by the tokens that they speak for."""
    counts = [len(item.windows) for item in tokens]
    shares = [window.told for item in tokens for window in item.windows]
    weights = np.array([share.stop - share.start for share in shares], np.float32)
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(rows * weights[:, None], starts, axis=0)
    result: Float = (sums / np.add.reduceat(weights, starts)[:, None]).astype(np.float32)
    return result
