"""Every number of every public function is finite and in range, or refused in one sentence before
the model runs and before a run's folder is touched."""

import inspect
import math
import re
import types
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import culnig_tl as ct
from culnig_tl.activations import ActivationStatistics
from culnig_tl.cli import app
from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.evaluation import breakers, greedy_replies, summarise
from culnig_tl.evaluation.bootstrap import resampled_means
from culnig_tl.pipeline import Settings
from culnig_tl.validation import CultureProbe

pytestmark = [
    pytest.mark.usefixtures("as_for_a_user"),
    pytest.mark.filterwarnings(
        "ignore:Rows that test are among", "ignore:(Letter|Some) questions are at chance"
    ),
]

NEURON = "L1.mlp.hook_post.5"
SET = ct.NeuronSet.of(NEURON)
ATLAS = Path(ct.__file__).parent / "atlas" / "assets"
NAN, INF = math.nan, math.inf

NO_NUMBER = (NAN, INF, -INF, "0.5", True, 1j, [0.5])
FACTOR = (*NO_NUMBER, None, np.float32("nan"), 10**400)
SHARE = (*NO_NUMBER, -0.01, 1.01)
POSITIVE = (0, -1, 1.5, 8.0, NAN, INF, True, "8")
COUNT = (-1, 1.5, NAN, INF, True, "8")
SEED = (*COUNT, None, 2**64)
FLAG = (1, "yes", None, NAN)
CHOICE = ("argmaxx", "", None, 3)
FACTORS = ([], [NAN], [0.0, INF], [0.0, 0.0], [0.0, -0.0], ["0"], "02", 0.5, None)
LIST = ([], "", None, 3)
BY_NAME = ({}, [], None, "culture", {3: []})


def answers(**changes: Any) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "benchmark": ["facts", "facts", "other", "other"],
            "id": ["a", "a", "b", "b"],
            "culture": ["Iran", "Iran", "", ""],
            "topic": "",
            "condition": ["original", "mine"] * 2,
            "factor": [1.0, 0.0] * 2,
            "draw": 0,
            "n_neurons": [0, 7] * 2,
            "correct": [True, False] * 2,
            "probability": [0.4, 0.1, 0.5, 0.4],
        }
    )
    return frame.assign(**changes)


def scores(value: float = 0.0, cultures: tuple[str, ...] = ("A", "B")) -> ct.NeuronScores:
    """Scores of one site; ``value`` is written into them afterwards, past their own checks."""
    values = torch.rand(len(cultures), 3, 64, generator=torch.Generator().manual_seed(1))
    scores = ct.NeuronScores({"mlp.hook_post": values}, cultures, 1, (1,) * len(cultures), {})
    values[-1, 2, 63] += value
    return scores


def a_probe(model: Any) -> CultureProbe:
    return CultureProbe(1, np.zeros(model.cfg.d_model), 0.0, 1.0, 1.0)


def a_ranking() -> pd.DataFrame:
    ranking = pd.DataFrame(
        {
            "module": ["L0.mlp", "L1.mlp"],
            "layer": [0, 1],
            "kind": "mlp",
            "neurons": [3, 1],
            "density": [2.0, 1.0],
            "parameters": [10, 10],
        }
    )
    ranking.attrs["parameters"] = 100
    return ranking


def activation_statistics() -> ActivationStatistics:
    """Statistics of one site and two cultures."""
    values = {"mlp.hook_post": torch.rand(2, 3, 64, dtype=torch.float64)}
    names = ("probability", "mean", "deviation", "maximum", "last", "last_deviation")
    source = {"model": "m", "data": "d"}
    return ActivationStatistics(
        **dict.fromkeys(names, values),
        cultures=("A", "B"),
        n_positions=(5, 5),
        n_prompts=(1, 1),
        n_questions=1,
        source=source,
    )


def scored_set() -> ct.NeuronSet:
    """Three neurons with scores."""
    names = [f"L0.mlp.hook_post.{i}" for i in range(3)]
    values = {("mlp.hook_post", 0, i): 1.0 / (i + 1) for i in range(3)}
    return ct.NeuronSet.of(names, scores=values, shapes={"mlp.hook_post": (3, 64)})


def batch_of(model, rows):
    return ct.batches(model, rows)[0]


def open_rows(rows):
    return [
        {"id": row["id"], "prompt": row["prompt"], "answers": ["tea"], "culture": "A"}
        | {"language": "su"}
        for row in rows
    ]


CALLS: dict[str, tuple[Any, dict[str, tuple]]] = {
    "scaled_neurons": (
        lambda m, r, **o: ct.scaled_neurons(m, SET, **o).__enter__(),
        {"factor": FACTOR, "positions": CHOICE},
    ),
    "Condition": (lambda m, r, **o: ct.Condition("mine", **o), {"factor": FACTOR, "sets": LIST}),
    "Condition.of": (lambda m, r, **o: ct.Condition.of("mine", SET, **o), {"factor": FACTOR}),
    "evaluate": (
        lambda m, r, **o: ct.evaluate(m, r, neurons=SET, **o),
        {"factor": FACTOR, "mode": CHOICE, "token_budget": POSITIVE},
    ),
    "compare": (
        lambda m, r, **o: ct.compare(
            m, **{"benchmarks": {"b": r}, "conditions": {"none": None, "mine": SET}, **o}
        ),
        {
            "factor": (*FACTOR, {"mine": NAN}, {"mine": "0"}),
            "mode": CHOICE,
            "seed": SEED,
            "benchmarks": BY_NAME,
            "conditions": ({}, [], None, "mine", [ct.Condition("a"), ct.Condition("a")]),
            "reference": ("random", "", 3),
        },
    ),
    "culture_effects": (
        lambda m, r, **o: ct.culture_effects(m, r, **{"sets": {"A": SET}, **o}),
        {"factor": FACTOR, "mode": CHOICE, "sets": BY_NAME},
    ),
    "dose_response": (
        lambda m, r, **o: ct.dose_response(m, **{"benchmarks": {"b": r}, "neurons": SET, **o}),
        {
            "factors": FACTORS,
            "mode": CHOICE,
            "seed": SEED,
            "token_budget": POSITIVE,
            "benchmarks": BY_NAME,
        },
    ),
    "ablation_effects": (
        lambda m, r, **o: ct.ablation_effects(m, r, **{"neurons": SET, **o}),
        {
            "factor": FACTOR,
            "token_budget": POSITIVE,
            "neurons": ([], [("mlp.hook_post", 0, -1)], [("mlp.hook_post", 0, 1.7)], ["L9.x.1"]),
        },
    ),
    "evaluate_open": (
        lambda m, r, **o: ct.evaluate_open(m, open_rows(r), **o),
        {"factor": FACTOR, "max_new_tokens": POSITIVE, "token_budget": POSITIVE},
    ),
    "greedy_replies": (
        lambda m, r, **o: greedy_replies(m, ["tea"], **o),
        {"max_new_tokens": POSITIVE, "token_budget": POSITIVE},
    ),
    "generate": (
        lambda m, r, **o: ct.generate(m, "tea", SET, **o),
        {"factor": FACTOR, "max_new_tokens": POSITIVE, "token_budget": POSITIVE},
    ),
    "breakers": (
        lambda m, r, **o: breakers(m, r, SET, **o),
        {
            "ratio": (*NO_NUMBER, -1.0),
            "fall": SHARE,
            "most": POSITIVE,
            "token_budget": POSITIVE,
            "mode": CHOICE,
        },
    ),
    "attribute": (
        ct.attribute,
        {
            "steps": POSITIVE,
            "clamp": FLAG,
            "token_budget": POSITIVE,
            "checkpoint_minutes": (*NO_NUMBER, -1.0, None),
            "sites": ((), ["mlp.typo"]),
            "method": CHOICE,
            "path": CHOICE,
            "nodes": CHOICE,
        },
    ),
    "attribute_questions": (
        ct.attribute_questions,
        {
            "chunk": POSITIVE,
            "steps": POSITIVE,
            "clamp": FLAG,
            "token_budget": POSITIVE,
            "path": CHOICE,
            "nodes": CHOICE,
        },
    ),
    "gradient_x_activation": (
        lambda m, r, **o: ct.gradient_x_activation(m, batch_of(m, r), **o),
        {"clamp": FLAG, "sites": ((), ["mlp.typo"])},
    ),
    "integrated_gradients": (
        lambda m, r, **o: ct.integrated_gradients(m, batch_of(m, r), **o),
        {
            "steps": POSITIVE,
            "clamp": FLAG,
            "token_budget": POSITIVE,
            "path": CHOICE,
            "nodes": CHOICE,
        },
    ),
    "prepare": (ct.prepare, {"token_budget": POSITIVE}),
    "activation_statistics": (
        ct.activation_statistics,
        {"token_budget": POSITIVE, "sites": (*LIST, ["mlp.typo"])},
    ),
    "lape": (
        lambda m, r, **o: ct.lape(activation_statistics(), **o),
        {"top": SHARE, "quantile": SHARE},
    ),
    "standardised_difference": (
        lambda m, r, **o: ct.standardised_difference(*[activation_statistics()] * 2, **o),
        {"positions": CHOICE},
    ),
    "estimate": (
        lambda m, r, **o: ct.estimate(m, **{"data": {"a": r}, "benchmarks": {"b": r}, **o}),
        {
            "n_sets": POSITIVE,
            "n_cards": COUNT,
            "token_budget": POSITIVE,
            "data": BY_NAME,
            "benchmarks": BY_NAME,
        },
    ),
    "inspect_neuron": (
        lambda m, r, **o: ct.inspect_neuron(m, r, **{"neuron": NEURON, **o}),
        {
            "top": POSITIVE,
            "token_budget": POSITIVE,
            "neuron": (("mlp.hook_post", 0, -1), ("mlp.hook_post", 0, 1.7), 5, True),
            "layer": (-1, 1.5, NAN, True),
        },
    ),
    "inspect_neurons": (
        lambda m, r, **o: ct.inspect_neurons(m, r, **{"neurons": [NEURON], **o}),
        {
            "top": POSITIVE,
            "token_budget": POSITIVE,
            "neurons": ([], [("mlp.hook_post", 0, 64)], [("mlp.hook_post", True, 5)]),
        },
    ),
    "inspect_prompt": (lambda m, r, **o: ct.inspect_prompt(m, r[0], **o), {"top": POSITIVE}),
    "explore": (
        lambda m, r, **o: ct.explore(m, r, scores=scores(), **o),
        {"n_seen": POSITIVE},
    ),
    "split": (lambda m, r, **o: ct.split(r, by="id", **o), {"seed": SEED}),
    "split_half": (
        ct.split_half,
        {"splits": POSITIVE, "seed": SEED, "token_budget": POSITIVE, "method": CHOICE},
    ),
    "membership": (
        ct.membership,
        {"draws": POSITIVE, "seed": SEED, "token_budget": POSITIVE, "method": CHOICE},
    ),
    "compare_contents": (
        lambda m, r, **o: ct.compare_contents(
            m, {"a": {"cultural": r}, "b": {"cultural": r}}, {"a": r, "b": r}, **o
        ),
        {
            "factor": FACTOR,
            "draws": POSITIVE,
            "n_random": POSITIVE,
            "seed": SEED,
            "token_budget": POSITIVE,
            "method": CHOICE,
        },
    ),
    "compare_models": (
        lambda m, r, **o: ct.compare_models({"a": m, "b": m}, r, **o),
        {"token_budget": POSITIVE},
    ),
    "tune_factors": (
        lambda m, r, **o: ct.tune_factors(m, SET, r, {"b": r}, **o),
        {"factors": FACTORS, "seed": SEED, "token_budget": POSITIVE},
    ),
    "culture_probe": (
        lambda m, r, **o: ct.culture_probe(m, r, r, **o),
        {"layer": (*COUNT, 99), "token_budget": POSITIVE},
    ),
    "conditional_use": (
        lambda m, r, **o: ct.conditional_use(
            m, SET, {"b": r}, CultureProbe(1, np.zeros(m.cfg.d_model), 0.0, 1.0, 1.0), **o
        ),
        {"factor": FACTOR, "seed": SEED, "token_budget": POSITIVE},
    ),
    "bake": (
        lambda m, r, **o: ct.bake(ATLAS, **{"neurons": SET, "out": "nowhere", **o}),
        {
            "factor": FACTOR,
            "neurons": ([], [("mlp.hook_post", 0, -1)], [("mlp.hook_post", 0, 1.7)], ["L9.x.1"]),
        },
    ),
    "protect": (
        lambda m, r, **o: ct.protect(AutoModelForCausalLM.from_pretrained(ATLAS), **o),
        {"neurons": ([("mlp.hook_post", 0, -1)], [("mlp.hook_post", 0, 1.7)], ["L9.x.1"])},
    ),
    "select_modules": (
        lambda m, r, **o: ct.select_modules(a_ranking(), **o),
        {"share": SHARE, "seed": SEED},
    ),
    "finetune": (
        lambda m, r, **o: ct.finetune("atlas", r, out="nowhere", **o),
        {
            "learning_rate": (*NO_NUMBER, -1.0),
            "epochs": (*NO_NUMBER, 0, -1.0),
            "batch_size": POSITIVE,
            "accumulation": POSITIVE,
            "weight_decay": (*NO_NUMBER, -1.0),
            "seed": SEED,
            "lora_rank": POSITIVE,
            "max_steps": POSITIVE,
            "checkpoint_every": POSITIVE,
            "early_stop": POSITIVE,
        },
    ),
    "finetuning_study": (
        lambda m, r, **o: ct.finetuning_study(
            "atlas",
            ct.load_benchmark("atlas-sums", split="identify", limit=4),
            ct.load_benchmark("atlas-sums", split="test", limit=4),
            neurons=SET,
            benchmarks={"culture": ct.load_benchmark("atlas", split="test", limit=4)},
            out="nowhere",
            **o,
        ),
        {
            "learning_rate": (*NO_NUMBER, -1.0),
            "epochs": (*NO_NUMBER, 0, -1.0),
            "batch_size": POSITIVE,
            "accumulation": POSITIVE,
            "seeds": ([], [0, 0], [-1], [1.5], [True], 3),
            "share": SHARE,
            "token_budget": POSITIVE,
        },
    ),
    "figures.model_comparison": (
        lambda m, r, **o: ct.figures.model_comparison({"a": SET, "b": SET}, **o),
        {"seed": SEED},
    ),
    "faithfulness": (
        lambda m, r, **o: ct.faithfulness(m, {"b": r}, {"mine": scored_set()}, **o),
        {
            "sizes": ([], [0], [1.5], [NAN], [100], 3),
            "n_random": POSITIVE,
            "seed": SEED,
            "mode": CHOICE,
        },
    ),
    "first_order": (
        lambda m, r, **o: ct.first_order(m, r, **{"neurons": SET, **o}),
        {"factors": (*FACTORS, [1.0]), "token_budget": POSITIVE, "neurons": ([], ["L9.x.1"])},
    ),
    "league": (
        lambda m, r, **o: ct.league(m, **{"data": {"cultural": r}, **o}),
        {
            "data": (*BY_NAME, {"control": []}),
            "sizes": ([], [NAN], [2.0], [-0.1], [0.01, 0.01]),
            "sites": (*LIST, ["mlp.typo"]),
            "n_middle": (*NO_NUMBER, -1),
            "n_random": (*NO_NUMBER, -1),
            "n_matched": POSITIVE,
            "ablation_prompts": POSITIVE,
            "token_budget": POSITIVE,
            "mode": CHOICE,
            "seed": SEED,
        },
    ),
    "load_benchmark": (
        lambda m, r, **o: ct.load_benchmark("atlas", split="test", **o),
        {
            "limit": POSITIVE,
            "per_culture": POSITIVE,
            "seed": SEED,
            "cultures": ([], "Iran", 3),
            "topics": ([], "Food", 3),
        },
    ),
    "load_model": (lambda m, r, **o: ct.load_model(**o), {"n_ctx": POSITIVE}),
    "random_neurons": (
        lambda m, r, **o: ct.random_neurons(m, **{"like": SET, **o}),
        {
            "seed": SEED,
            "layer_matched": FLAG,
            "like": (
                ct.NeuronSet.of({"mlp.hook_pre_linear": [(0, 1)]}),
                ct.NeuronSet.of({"attn.hook_k": [(n // 64, n % 64) for n in range(300)]}),
            ),
        },
    ),
    "culture_general": (
        lambda m, r, **o: ct.culture_general(**{"cultural": scores(), **o}),
        {
            "mlp_top": SHARE,
            "attention_top": SHARE,
            "recognition_top": SHARE,
            "general_weight": (*NO_NUMBER, -1.0),
            "recipe": CHOICE,
            "normalise": CHOICE[:2],
            "cultural": (scores(NAN), scores(INF), scores(-INF)),
            "control": (scores(NAN), scores(INF)),
            "recognition": (scores(NAN),),
        },
    ),
    "culture_specific": (
        lambda m, r, **o: ct.culture_specific(**{"cultural": scores(), "culture": "A", **o}),
        {
            "top": SHARE,
            "recognition_top": SHARE,
            "min_z": NO_NUMBER,
            "recipe": CHOICE,
            "general_weight": (*NO_NUMBER, -1.0),
            "cultural": (scores(NAN), scores(INF), scores(cultures=("A",))),
            "control": (scores(NAN),),
        },
    ),
    "threshold_sweep": (
        lambda m, rows, **o: ct.threshold_sweep(
            **{
                "cultural": scores(),
                "recognition": scores(),
                "culture": "A",
                "model": m,
                "benchmarks": {"b": rows},
                **o,
            },
        ),
        {
            "t": ([NAN], [-0.1], [2.0], [0.003, "0"], [0.003, INF]),
            "r": ([NAN], [-0.1], [0.01, 1.1]),
            "z": ([NAN], [0.5, INF], ["0"]),
            "thresholds": ({"top": NAN}, {"top": 0.0}, {"min_z": INF}, {"recognition_top": 2.0}),
            "benchmarks": BY_NAME[:2],
            "cultural": (scores(NAN), scores(INF)),
        },
    ),
    "grade_scores": (
        lambda m, r, **o: ct.grade_scores(**{"scores": scores(), "key": SET, **o}),
        {"scores": (scores(NAN), scores(INF)), "control": (scores(NAN),)},
    ),
    "accuracy_by": (
        lambda m, r, **o: ct.accuracy_by(**{"answers": answers(), **o}),
        {"seed": SEED, "answers": (answers(probability=NAN), answers(probability=INF))},
    ),
    "selectivity": (
        lambda m, r, **o: ct.selectivity(**{"answers": answers(), **o}),
        {"seed": SEED, "answers": (answers(probability=NAN),), "general": ([], ["typo"])},
    ),
    "summarise": (
        lambda m, r, **o: summarise(**{"answers": answers(), **o}),
        {"seed": SEED, "answers": (answers(probability=NAN),), "reference": ("random", "")},
    ),
    "resampled_means": (
        lambda m, r, **o: resampled_means(np.ones((3, 2)), **o),
        {"draws": POSITIVE},
    ),
    "tables.paper_table": (
        lambda m, r, **o: ct.tables.paper_table(ct.tables.published("gemma-3-12b-it"), **o),
        {"digits": (*COUNT, 99)},
    ),
    "tables.rounded": (
        lambda m, r, **o: ct.tables.rounded(ct.tables.published("gemma-3-12b-it"), **o),
        {"digits": (*POSITIVE, 99)},
    ),
    "tables.to_markdown": (
        lambda m, r, **o: ct.tables.to_markdown(ct.tables.published("gemma-3-12b-it"), **o),
        {"digits": COUNT},
    ),
    "tables.to_latex": (
        lambda m, r, **o: ct.tables.to_latex(ct.tables.published("gemma-3-12b-it"), **o),
        {"digits": COUNT},
    ),
    "tables.selectivity_table": (
        lambda m, r, **o: ct.tables.selectivity_table(ct.selectivity(answers()), **o),
        {"digits": COUNT},
    ),
    "figures.bin_scores": (
        lambda m, r, **o: ct.figures.bin_scores(scores(), **o),
        {"bins": POSITIVE},
    ),
    "figures.layer_heatmap": (
        lambda m, r, **o: ct.figures.layer_heatmap(SET, **o),
        {"bins": POSITIVE},
    ),
    "figures.layer_profile": (lambda m, r, **o: ct.figures.layer_profile(SET, **o), {"seed": SEED}),
    "figures.score_distribution": (
        lambda m, r, **o: ct.figures.score_distribution(scores(), **o),
        {"bins": POSITIVE},
    ),
    "figures.token_attribution": (
        lambda m, r, **o: ct.figures.token_attribution(["tea"], np.ones(1), **o),
        {"per_row": POSITIVE},
    ),
    "circuitsvis.colored_tokens": (
        lambda m, r, **o: ct.circuitsvis.colored_tokens(["tea"], **{"values": [1.0], **o}),
        {"min_value": NO_NUMBER, "max_value": NO_NUMBER, "values": ([NAN], [INF], [], [1.0, 2.0])},
    ),
    "circuitsvis.topk_tokens": (
        lambda m, r, **o: ct.circuitsvis.topk_tokens([["tea"]], [torch.ones(1, 1, 1)], **o),
        {"max_k": POSITIVE},
    ),
    "circuitsvis.attention_heads": (
        lambda m, r, **o: ct.circuitsvis.attention_heads(
            **{"attention": np.ones((1, 1, 1)), "tokens": ["tea"], **o}
        ),
        {
            "min_value": NO_NUMBER,
            "max_value": NO_NUMBER,
            "mask_upper_tri": FLAG,
            "attention": (np.ones((1, 1)), np.ones((1, 1, 2)), np.full((1, 1, 1), NAN)),
        },
    ),
}
"""By name: the function on a tiny model, and bad values of its arguments."""

RUN: dict[str, tuple] = {
    **dict.fromkeys(("mlp_top", "attention_top", "recognition_top", "specific_top"), SHARE),
    "min_z": (*NO_NUMBER, None),
    "factor": (NAN, INF, -INF, "0", True, [], [NAN], [0.0, -0.0], ["0"], "02"),
    **dict.fromkeys(("n_random", "n_layer_matched", "n_cards"), COUNT),
    "token_budget": POSITIVE,
    "mode": CHOICE,
    "random_design": CHOICE,
    "recipe": CHOICE,
    "method": CHOICE,
    "sites": ((), ["mlp.typo"]),
    "benchmarks": BY_NAME[:4],
}
"""Bad values of the arguments of ``culnig``."""

SETS_AND_TEXTS = {"attribute", "attribute_questions", "culnig", "split_half"}
"""Whose ``method`` may be a function of batches, which is no number."""


@pytest.fixture
def idle(model, rows, monkeypatch):
    """The tiny model, measured once, and from then on a failure if it runs."""
    ct.prepare(model, rows)
    ct.random_neurons(model, like=SET)
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("the model was run"))
    return model


CASES = [
    pytest.param(name, argument, value, id=f"{name}-{argument}-{number}")
    for name, (_, arguments) in CALLS.items()
    for argument, values in arguments.items()
    for number, value in enumerate(values)
]


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_a_bad_value_is_one_sentence_and_the_model_does_not_run(idle, rows, name, argument, value):
    with pytest.raises(ct.CulnigError) as caught:
        CALLS[name][0](idle, rows, **{argument: value})
    assert isinstance(caught.value, ValueError | KeyError)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        pytest.param(argument, value, id=f"{argument}-{number}")
        for argument, values in RUN.items()
        for number, value in enumerate(values)
    ],
)
def test_a_run_checks_before_it_touches_its_folder(idle, rows, tmp_path, argument, value):
    out = tmp_path / "run"
    options: dict[str, Any] = {"benchmarks": {"b": rows}, argument: value}
    with pytest.raises(ct.CulnigError):
        ct.culnig(idle, out=out, cultural=rows, control=rows, recognition=rows, **options)
    assert not out.exists()


def test_the_corrected_call_goes_on_in_the_same_folder(model, rows, tmp_path):
    start = partial(
        ct.culnig,
        model,
        out=tmp_path,
        cultural=rows,
        control=rows.map(lambda row: {**row, "prompt": "Answer:"}),
        recognition=rows,
        benchmarks={"b": rows},
        n_random=1,
        n_cards=0,
        progress=False,
    )
    with pytest.raises(InvalidInputError, match=r"^min_z is nan; give a finite number\.$"):
        start(min_z=NAN)
    assert start(min_z=0.5).settings["specific"]["min_z"] == 0.5


def test_a_run_knows_before_scoring_that_its_mode_cannot_read_an_option(idle, rows, tmp_path):
    longer = rows.map(lambda row: {**row, "options": [*row["options"], " two words"]})
    start = partial(ct.culnig, idle, cultural=rows, control=rows, recognition=rows)
    with pytest.raises(InvalidInputError, match="' two words'"):
        start(out=tmp_path / "run", benchmarks={"b": longer}, mode="options")
    assert not (tmp_path / "run").exists()


def test_a_run_knows_before_scoring_that_its_control_is_of_other_cultures(idle, rows, tmp_path):
    fewer = rows.filter(lambda row: row["culture"] != "C")
    with pytest.raises(InvalidInputError, match="these are not in both: C; give the same rows"):
        ct.culnig(idle, out=tmp_path / "run", cultural=rows, control=fewer, recognition=rows)
    assert not (tmp_path / "run").exists()


def test_conditions_are_checked_before_the_first_of_them_is_answered(idle, rows):
    outside = ct.NeuronSet.of({"mlp.hook_post": [(0, 64)]})
    conditions = {"original": None, "outside": outside}
    with pytest.raises(InvalidInputError, match="Neuron 64 of layer 0 at"):
        ct.compare(idle, {"b": rows}, conditions, progress=False)
    with pytest.raises(InvalidInputError, match="is outside"):
        ct.culture_effects(idle, rows, {"A": SET, "B": outside}, progress=False)
    with pytest.raises(InvalidInputError, match="is outside"):
        ct.dose_response(idle, {"b": rows}, SET, random=[outside], progress=False)


@pytest.mark.parametrize("place", [(0, -1), (-1, 0), (0, 1.7), (0, True), (0, 64), (3, 0)])
def test_no_neuron_outside_the_model_is_scaled(idle, place):
    by_hand = ct.NeuronSet({"mlp.hook_post": (place,)})
    with pytest.raises(InvalidInputError), ct.scaled_neurons(idle, by_hand):
        pass
    with pytest.raises(InvalidInputError), ct.scaled_neurons(idle, [("mlp.hook_post", *place)]):
        pass


def test_a_factor_fits_into_the_model_s_own_type(loaded):
    model = loaded(2, "hooked", "float32")
    with ct.scaled_neurons(model, SET, factor=1e38):
        pass
    message = r"factor is 1e\+39; give a finite number between -3.40282e\+38 and 3.40282e\+38\."
    with (
        pytest.raises(InvalidInputError, match=message),
        ct.scaled_neurons(model, SET, factor=1e39),
    ):
        pass


@pytest.mark.parametrize("changes", [{"n_random": -1}, {"factor": (NAN,)}, {"mlp_top": 2.0}])
def test_settings_that_are_read_back_are_checked_too(changes):
    with pytest.raises(InvalidInputError):
        Settings(**changes)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "atlas", "atlas:test", "--quiet", "--factor", "nan"], "factor is nan"),
        (
            ["evaluate", "atlas", "atlas:test", "--quiet", "--token-budget", "0"],
            "token_budget is 0",
        ),
        (
            ["score", "atlas", "atlas:test", "--quiet", "--out", "no", "--token-budget", "-1"],
            "is -1",
        ),
    ],
)
def test_the_command_line_says_so_and_exits_with_2(arguments, sentence):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


# ---------------------------------------------------------------- nothing is forgotten


def public_functions() -> dict[str, Any]:
    """Every function that ``ct`` offers, and those of the modules that it offers."""
    functions = {}
    for name in ct.__all__:
        value = getattr(ct, name)
        inside = getattr(value, "__all__", ()) if isinstance(value, types.ModuleType) else ()
        inner = {f"{name}.{each}": getattr(value, each) for each in inside}
        functions |= {each: one for each, one in inner.items() if inspect.isfunction(one)}
        if inspect.isfunction(value):
            functions[name] = value
    return functions


def test_every_number_of_every_public_function_has_bad_values_here():
    wanted = {
        (name, parameter.name)
        for name, function in public_functions().items()
        for parameter in inspect.signature(function).parameters.values()
        if re.search(r"\b(int|float)\b", str(parameter.annotation))
        or parameter.name in ("clamp", "layer_matched")
    }
    tried = {
        (name, argument) for name, (_, by_argument) in CALLS.items() for argument in by_argument
    }
    tried |= {("culnig", argument) for argument in RUN}
    not_numbers = (
        {("scaled_neurons", "neurons"), ("faithfulness", "keep")}
        | {(name, "keep") for name in ("compare_contents",)}
        | {(name, "method") for name in SETS_AND_TEXTS}
    )
    assert len(wanted) > 60
    assert wanted - tried - not_numbers == set()


# ---------------------------------------------------------------- the check itself

numbers = st.one_of(
    st.floats(), st.integers(), st.fractions(), st.booleans(), st.text(max_size=3), st.none()
)


@given(numbers, st.floats(-3, 3), st.floats(-3, 3), st.booleans())
def test_what_passes_is_a_number_in_range(value, low, high, whole):
    is_number = isinstance(value, int if whole else int | float | Fraction)
    if is_number and not isinstance(value, bool) and low <= value <= high:
        check_number("n", value, low=low, high=high, whole=whole)
    else:
        with pytest.raises(InvalidInputError, match=r"^n is .*; give a (whole|finite) number"):
            check_number("n", value, low=low, high=high, whole=whole)


@given(numbers)
def test_without_bounds_every_finite_number_passes(value):
    is_number = isinstance(value, int | float | Fraction) and not isinstance(value, bool)
    if is_number and abs(value) <= np.finfo(float).max:
        check_number("n", value)
    else:
        with pytest.raises(InvalidInputError, match=r"^n is "):
            check_number("n", value)
