"""What is of another kind than an argument, such as a name or a model of transformers in the place
of a model with hook points, is refused in one sentence that says what to give."""

import inspect
import re
from contextlib import AbstractContextManager

import pandas as pd
import pytest
import torch
from datasets import DatasetDict
from transformers import LlamaConfig, LlamaForCausalLM

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError, UnknownNameError

pytestmark = pytest.mark.usefixtures("as_for_a_user")

SETS = ("neurons", "like", "found", "key", "conditions", "sets")
SCORES = ("scores", "cultural", "control", "recognition")
WRONG = {
    "model": ("a name", "transformers' own", "nothing"),
    "rows": ("several splits", "a path", "nothing", "numbers", "a tensor"),
    **dict.fromkeys(SETS, ("a number", "numbers", "scores by name")),
    **dict.fromkeys(SCORES, ("a number", "a frame", "numbers")),
    "statistics": ("a number", "a frame"),
    "batch": ("nothing", "several splits"),
    "answers": ("nothing", "a frame", "numbers"),
    "source": ("nothing", "numbers"),
    "sites": ("a number", "a path", "nothing"),
    "texts": ("nothing", "a number"),
}
"""What users have in hand, by the argument that it is given for."""
FUNCTIONS = (
    *("ablation_effects", "accuracy_by", "activation_statistics", "attribute"),
    *("attribute_questions", "cas", "compare", "culture_effects", "culture_general"),
    *("culture_specific", "dose_response", "evaluate", "evaluate_open", "first_order", "generate"),
    *("grade", "grade_scores", "gradient_x_activation", "inspect_neurons", "inspect_prompt"),
    *("integrated_gradients", "lape", "prepare", "protect", "questions", "questions_from_frame"),
    *("random_neurons", "render", "scaled_neurons", "selectivity"),
    *("standardised_difference", "split"),
)
ASKED = [
    (name, argument, wrong)
    for name in FUNCTIONS
    for argument in inspect.signature(getattr(ct, name)).parameters
    for wrong in WRONG.get(argument, ())
    if inspect.signature(getattr(ct, name)).parameters[argument].default is not None
    or wrong != "nothing"
]


@pytest.fixture(scope="module")
def given():
    """A right value of every argument, and the wrong ones by name."""
    model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=4)
    key, scores = ct.answer_key("general"), ct.attribute(model, rows, progress=False)
    config = LlamaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    right = {
        **dict.fromkeys(SETS, key),
        **dict.fromkeys(SCORES, scores),
        "conditions": {"planted": key},
        "sets": {"USA": key},
        "benchmarks": {"atlas": rows},
        "model": model,
        "rows": rows,
        "row": rows[0],
        "texts": "Tea",
        "progress": False,
        "batch": ct.batches(model, rows)[0],
        "general": scores,
        "culture": None,
        "answers": ct.evaluate(model, rows),
        "source": pd.DataFrame(rows.to_list()),
        "statistics": ct.activation_statistics(model, rows, progress=False),
    }
    wrong = {
        "a name": "atlas",
        "transformers' own": LlamaForCausalLM(config),
        "nothing": None,
        "several splits": DatasetDict({"test": rows}),
        "a path": "rows.csv",
        "a number": 5,
        "numbers": [1, 2],
        "a tensor": torch.zeros(3),
        "a frame": pd.DataFrame({"id": ["a"]}),
        "scores by name": {"cultural": 5},
    }
    return right, wrong


def run_through(result):
    """To the end of a generator, into a ``with`` block."""
    if inspect.isgenerator(result):
        list(result)
    elif isinstance(result, AbstractContextManager):
        with result:
            pass


@pytest.mark.parametrize(("name", "argument", "wrong"), ASKED)
def test_what_is_of_another_kind_is_a_sentence(given, name, argument, wrong):
    right, wrongs = given
    function = getattr(ct, name)
    arguments = {
        each: right[each]
        for each, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty or each == "progress"
    }
    with pytest.raises((InvalidInputError, UnknownNameError)) as refused:
        run_through(function(**arguments | {argument: wrongs[wrong]}))
    assert re.search(r"\w.{20,}\.$", str(refused.value)), refused.value


def test_the_sentence_says_what_to_give(given):
    right, wrong = given
    with pytest.raises(
        InvalidInputError, match=r"model is of type LlamaForCausalLM; .* load_model"
    ):
        ct.attribute(wrong["transformers' own"], right["rows"])
    with pytest.raises(InvalidInputError, match=r"DatasetDict; take one .* rows\['test'\]"):
        ct.evaluate(right["model"], wrong["several splits"])
    with pytest.raises(
        InvalidInputError, match=r"Row 0 is of type int, expected a dictionary \(2 of 2"
    ):
        ct.prepare(right["model"], wrong["numbers"])
