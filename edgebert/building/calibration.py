"""What static int8 is calibrated on: texts of the train part, short ones among them, as token arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgebert.judging.evaluate import text_of
from edgebert.runtimes.fixed import fitted
from edgebert.serving.tokens import Batch, Text, TextTokenizer, batches
from edgebert.training.data import Data, sample_texts

# How many texts, spread over the lengths, and of how many of them the beginnings too, up to how many words.
_TEXTS, _BEGINNINGS, _WORDS = 256, 16, 5
# Tokens in one batch, padding included: what is in memory at once.
_BATCH_TOKENS = 1024


def calibration_texts(data: Data | None, fallback: Sequence[Text]) -> list[Text]:
    """Texts of the data's train part (without data ``fallback``), and the beginnings of some.

    Without texts of 0 to 5 words, the activations that only such texts reach would be cut off.
    """
    rows = [] if data is None else [text_of(row) for row in sample_texts(data.train, _TEXTS)]
    texts = rows or list(fallback)
    step = max(1, len(texts) // _BEGINNINGS)
    begun = [text if isinstance(text, str) else text[0] for text in texts[::step]][:_BEGINNINGS]
    return [*texts, *dict.fromkeys(" ".join(text.split()[:words]) for words in range(_WORDS + 1) for text in begun)]


def calibration_feeds(
    tokenizer: TextTokenizer, texts: Sequence[Text], fixed: tuple[int, int] | None
) -> Iterator[Batch]:
    """The texts as batches, made when they are asked for; of one shape where the graph takes no other."""
    tokens = tokenizer.encode(texts)
    if fixed is None:
        for group in batches(tokens, _BATCH_TOKENS):
            yield tokenizer.collate([tokens[i] for i in group])
        return
    for start in range(0, len(tokens), fixed[0]):
        feed = tokenizer.collate(tokens[start : start + fixed[0]], fixed[1])
        yield dict(fitted(feed, *fixed, {}))
