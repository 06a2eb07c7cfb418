"""Training methods: which terms make up the loss, and what they need of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgebert.errors import UsageError
from edgebert.training.objectives.base import Term
from edgebert.training.objectives.hidden import hidden_term
from edgebert.training.objectives.logits import logits_term
from edgebert.training.objectives.relations import relations_term, similarity_term
from edgebert.training.objectives.task import embedding_term, labels_term


@dataclass(frozen=True)
class Method:
    """``terms`` for a classifier, ``encoder_terms`` for a sentence encoder (none: impossible).

    ``needs_relations``: queries, keys and values of a layer. ``widths_differ``: a sentence encoder may be of another
    width than its teacher. ``together``: several depths are trained in one run, the terms those of each of them.
    """

    terms: tuple[Term, ...]
    encoder_terms: tuple[Term, ...]
    needs_teacher: bool = True
    needs_hidden: bool = False
    needs_relations: bool = False
    widths_differ: bool = False
    together: bool = False


METHODS: Mapping[str, Method] = {
    "none": Method((labels_term,), (), needs_teacher=False),
    "logits": Method((labels_term, logits_term), (embedding_term,)),
    "hidden": Method((labels_term, logits_term, hidden_term), (embedding_term, hidden_term), needs_hidden=True),
    "relations": Method(
        (labels_term, logits_term, relations_term),
        (similarity_term, relations_term),
        needs_relations=True,
        widths_differ=True,
    ),
    "elastic": Method(
        (labels_term, logits_term, hidden_term), (embedding_term, hidden_term), needs_hidden=True, together=True
    ),
}


def method_named(name: str) -> Method:
    """The method of that name. Raises UsageError listing those there are."""
    if name not in METHODS:
        raise UsageError(f"unknown training method {name!r}", "--method", f"one of {', '.join(METHODS)}")
    return METHODS[name]
