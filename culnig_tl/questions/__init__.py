"""Questions: their schema, where they come from, what the model sees of them, and batches.

| module | what |
|---|---|
| ``schema`` | the columns of a row, and what is wrong with a row |
| ``frames`` | rows from a DataFrame or a file of one's own |
| ``tables`` | rows from questions that are not prompts yet |
| ``prompts`` | rows from items and templates, and rows without their question |
| ``cloze`` | a cloze without its culture |
| ``chat`` | a question in a model's chat template, and what is checked of that |
| ``dates`` | the date in a chat template, always the same |
| ``reply`` | how a reply begins |
| ``tokens`` | the tokens of texts, and of labels after them |
| ``rendering`` | the text that a model reads, and the form of its labels |
| ``halves`` | one half of one's own rows to identify with, one to test with |
| ``batching`` | left-padded token batches |
| ``memory`` | tokens per pass, halved where memory runs out |
| ``prepared`` | all of that, done once for a model |
"""

from culnig_tl.questions.batching import Batch, groups_within, padded, padding_token
from culnig_tl.questions.dates import DATE
from culnig_tl.questions.frames import TABLES, questions_from_frame, read_table
from culnig_tl.questions.given import read_rows
from culnig_tl.questions.halves import split
from culnig_tl.questions.memory import TokenBudget
from culnig_tl.questions.prepared import PreparedQuestions, Rows, batches, prepare
from culnig_tl.questions.prompts import (
    Item,
    Template,
    as_templates,
    control_of,
    filled,
    order_of,
    rows_of,
)
from culnig_tl.questions.rendering import adapted_rows, render, writer
from culnig_tl.questions.schema import (
    FEATURES,
    TEXT_COLUMNS,
    Split,
    fingerprint,
    loads_once,
    questions,
    ranges,
)
from culnig_tl.questions.tokens import encode, label_tokens

__all__ = [
    "DATE",
    "FEATURES",
    "TABLES",
    "TEXT_COLUMNS",
    "Batch",
    "Item",
    "PreparedQuestions",
    "Rows",
    "Split",
    "Template",
    "TokenBudget",
    "adapted_rows",
    "as_templates",
    "batches",
    "control_of",
    "encode",
    "filled",
    "fingerprint",
    "groups_within",
    "label_tokens",
    "loads_once",
    "order_of",
    "padded",
    "padding_token",
    "prepare",
    "questions",
    "questions_from_frame",
    "ranges",
    "read_rows",
    "read_table",
    "render",
    "rows_of",
    "split",
    "writer",
]
