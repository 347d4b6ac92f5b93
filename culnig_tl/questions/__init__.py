"""Questions: their schema, where they come from, what the model sees of them, and batches.

| module | what |
|---|---|
| ``schema`` | the columns of a row, and what is wrong with a row |
| ``frames`` | rows from a DataFrame or a file of one's own |
| ``tables`` | rows from questions that are not prompts yet |
| ``prompts`` | rows from items and templates, and rows without their question |
| ``rendering`` | the text that a model reads, and the tokens of labels |
| ``batching`` | left-padded token batches |
"""

from culnig_tl.questions.batching import Batch, batches
from culnig_tl.questions.frames import questions_from_frame
from culnig_tl.questions.prompts import Item, Template, control_of, order_of, rows_of
from culnig_tl.questions.rendering import for_model, label_tokens, render
from culnig_tl.questions.schema import FEATURES, Split, fingerprint, questions

__all__ = [
    "FEATURES",
    "Batch",
    "Item",
    "Split",
    "Template",
    "batches",
    "control_of",
    "fingerprint",
    "for_model",
    "label_tokens",
    "order_of",
    "questions",
    "questions_from_frame",
    "render",
    "rows_of",
]
