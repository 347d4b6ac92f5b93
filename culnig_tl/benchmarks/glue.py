"""QNLI and MRPC: two sentence tasks without culture (GLUE, Wang et al. 2019).

QNLI (validation split, CC BY-SA 4.0) asks whether a sentence answers a question, MRPC (test split,
whose labels the hub has; Microsoft's shared-source licence, non-commercial) whether two sentences
say the same. Under ``labels="values"`` the answer is the data's own 0 or 1 (QNLI: 0 for
entailment), as in the paper; under letters the two options are shuffled.

GLUE's tab-separated files are read without quoting: a quote in them is a quote.
"""

from collections.abc import Sequence
from functools import partial

from culnig_tl.benchmarks.definition import Benchmark
from culnig_tl.benchmarks.loading import Hub, Loaded, Source
from culnig_tl.benchmarks.records import Record
from culnig_tl.questions import Item, Split, Template, rows_of

QNLI_TEMPLATES = (
    Template(
        "Someone asked something and was shown one sentence. Reply 0 if it tells them what they "
        "asked for and 1 if it leaves them without, with the digit only.\n"
        "Question: {question}\nSentence: {sentence}\nAnswer:",
        labels="values",
        name="values-1",
    ),
    Template(
        "Sentence: {sentence}\nQuestion: {question}\nIs whoever asks served by the "
        "sentence alone?\n{options}\nReply with 0 or 1 and nothing else.\nAnswer:",
        labels="values",
        name="values-2",
    ),
    Template(
        "Read the sentence, then decide whether it answers the question.\n"
        "Sentence: {sentence}\nQuestion: {question}\n{options}\nReply with A or B only.\nAnswer:",
        name="letters-1",
    ),
    Template(
        "Question: {question}\nSentence: {sentence}\nPick what is true, by its letter.\n"
        "{options}\nAnswer:",
        name="letters-2",
    ),
)
MRPC_TEMPLATES = (
    Template(
        "Two writers put down one sentence each. Reply 1 if a reader learns the same from both and "
        "0 if not, with the digit only.\nFirst: {sentence1}\nSecond: {sentence2}\nAnswer:",
        labels="values",
        name="values-1",
    ),
    Template(
        "First sentence: {sentence1}\nSecond sentence: {sentence2}\nWeigh what they say.\n"
        "{options}\nReply with 0 or 1 and nothing else.\nAnswer:",
        labels="values",
        name="values-2",
    ),
    Template(
        "Hold one sentence against the other.\nFirst: {sentence1}\nSecond: {sentence2}\n{options}\n"
        "Reply with A or B only.\nAnswer:",
        name="letters-1",
    ),
    Template(
        "One: {sentence1}\nTwo: {sentence2}\nPick what is true of the two, by its letter.\n"
        "{options}\nAnswer:",
        name="letters-2",
    ),
)
_PARQUET = "a3f3ab759b9d7018046ce361f115ef38276d2e1e"  # the commit that turned GLUE into parquet
_QNLI = Hub("nyu-mll/glue", "qnli", "validation", _PARQUET)
_QNLI_COLUMNS = {
    "id": ("idx", "index"),
    "question": ("question",),
    "sentence": ("sentence",),
    "label": ("label",),
}
_MRPC = Hub("nyu-mll/glue", "mrpc", "test", _PARQUET)
_MRPC_COLUMNS = {
    "id": ("idx", "index"),
    "sentence1": ("sentence1", "#1 String"),
    "sentence2": ("sentence2", "#2 String"),
    "label": ("label", "Quality"),
}
_QNLI_OPTIONS = ("The sentence answers the question.", "The sentence does not answer it.")
_MRPC_OPTIONS = ("They differ in meaning.", "They mean the same.")


def load_qnli(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """QNLI's validation rows; there is no half to identify neurons with."""
    records = source.read(_QNLI, _QNLI_COLUMNS, key="id", files=r"(^|/)(dev|validation)")
    labels = {"0": 0, "entailment": 0, "1": 1, "not_entailment": 1}
    items = records.each(partial(_item, labels=labels, options=_QNLI_OPTIONS))
    return Loaded(rows_of(items, templates, benchmark="qnli"), records.origin)


def load_mrpc(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """MRPC's test rows; there is no half to identify neurons with."""
    records = source.read(_MRPC, _MRPC_COLUMNS, key="id", files=r"(^|/)test")
    items = records.each(partial(_item, labels={"0": 0, "1": 1}, options=_MRPC_OPTIONS))
    return Loaded(rows_of(items, templates, benchmark="mrpc"), records.origin)


def _item(record: Record, labels: dict[str, int], options: tuple[str, str]) -> Item:
    record.check_texts(record)
    record.check_choice("label", labels)
    fields = {name: text for name, text in record.items() if name not in ("id", "label")}
    return Item(record["id"], options, labels[record["label"]], fields=fields, values=("0", "1"))


QNLI = Benchmark(
    "qnli",
    load_qnli,
    QNLI_TEMPLATES,
    licence="CC-BY-SA-4.0 (QNLI in GLUE, Wang et al. 2019)",
    uses=("general",),
    folder="glue/QNLI",
    has_culture=False,
)
MRPC = Benchmark(
    "mrpc",
    load_mrpc,
    MRPC_TEMPLATES,
    licence="Microsoft's shared-source licence, non-commercial (MRPC in GLUE, Wang et al. 2019)",
    uses=("general",),
    folder="glue/MRPC",
    has_culture=False,
)
