"""Checks of exercises tell right from wrong and say why, and an open stub breaks nothing."""

from collections.abc import Callable
from functools import reduce
from operator import and_, or_
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import torch

import culnig_tl as ct
from culnig_tl import lessons
from culnig_tl.errors import MissingFileError
from culnig_tl.lessons import Verdict, real
from culnig_tl.questions import Template

MLP = "mlp.hook_post"
ESTIMATES = ("gradient x activation", "integrated gradients")


@pytest.fixture(scope="module")
def scene() -> Any:
    """What the exercises are about, small."""
    model = ct.load_model()
    rows = ct.load_benchmark("atlas", split="identify", limit=64)
    control = ct.load_benchmark("atlas-control", split="identify", limit=64)
    row = ct.load_benchmark("atlas", split="identify", cultures=["Greece"], limit=1)
    food = {"cultures": ["Iran"], "topics": ["Food"], "split": "identify"}
    scores = ct.attribute(model, rows, progress=False)
    control_scores = ct.attribute(model, control, clamp=True, progress=False)
    batch = ct.prepare(model, row).batches[0]
    _, cache = model.run_with_cache(batch.tokens)
    return SimpleNamespace(
        model=model,
        row=row,
        cache=cache,
        neuron="L0.mlp.hook_post.152",
        activation=torch.tensor([1.0, 3.0, -1.0]),
        gradient=torch.tensor([0.2, 0.1, 0.3]),
        scores=scores,
        control_scores=control_scores,
        general=ct.culture_general(scores, control_scores),
        key=ct.answer_key("general"),
        specific={
            culture: ct.culture_specific(scores, control_scores, culture=culture)
            for culture in scores.cultures
        },
        table=pd.DataFrame(
            [
                ("culture", "general", -70.0),
                ("culture", "random", -5.0),
                ("ordering", "general", -2.0),
                ("ordering", "random", -1.0),
            ],
            columns=["benchmark", "condition", "change"],
        ),
        judged=pd.DataFrame(
            {
                "layer": [0, 1, 2],
                "neuron": [5, 6, 7],
                "drop": [0.5, 0.6, 0.1],
                "gradient_x_activation": [0.01, 0.5, 0.3],
            }
        ),
        effects=pd.DataFrame(
            [
                ("A", "A", -0.9, -50.0),
                ("A", "B", -0.3, 0.0),
                ("B", "A", 0.1, 1.0),
                ("C", "A", 0.2, 5.0),
                ("B", "B", -0.5, -9.0),
                ("B", "C", -0.1, -40.0),
            ],
            columns=["masked", "tested", "probability_change", "change"],
        ),
        cultures=pd.DataFrame({"prompts": [2, 2, 4], "drop": [0.3, 0.1, -0.1]}),
        food=ct.load_benchmark("atlas", **food),
        food_control=ct.load_benchmark("atlas-control", **food),
        ranking=pd.DataFrame(
            {
                "module": ["L0.mlp", "L1.mlp", "L2.mlp", "L0.attn"],
                "kind": ["mlp", "mlp", "mlp", "attn"],
                "neurons": [15, 3, 2, 4],
            }
        ),
        after=pd.DataFrame(
            {"top": [0.9, 0.5], "bottom": [0.9, 0.95], "protect": [0.8, 0.7]},
            index=["sums", "culture"],
        ),
        mine=pd.DataFrame(
            {
                "id": ["staple", "staple"],
                "culture": ["Iran", "Greece"],
                "template": ["plain", "plain"],
                "prompt": ["Iran: rice or bread? Answer:", "Greece: rice or bread? Answer:"],
                "options": [[" rice", " bread"]] * 2,
                "answer": [" rice", " bread"],
            }
        ),
        plain=pd.DataFrame(
            {
                "question": ["Which food?"],
                "options": [["bread", "rice"]],
                "answer": ["rice"],
                "culture": ["Iran"],
            }
        ),
    )


def residual(s: Any, *, embedding: int = 1, attention: int = 1, mlps: int = 1) -> Verdict:
    n = s.model.cfg.n_layers
    written = {
        name: sum(s.cache[f"blocks.{k}.{name}"] for k in range(n))
        for name in ("hook_attn_out", "hook_mlp_out")
    }
    rebuilt = embedding * s.cache["hook_embed"] + attention * written["hook_attn_out"]
    return lessons.check_residual_stream(rebuilt + mlps * written["hook_mlp_out"], s.cache, n)


def probability(s: Any, factor: float) -> float:
    neuron = ct.NeuronSet.of(s.neuron)
    return ct.evaluate(s.model, s.row, neurons=neuron, factor=factor)["probability"].item()


def switched_off(s: Any, p: float) -> Verdict:
    return lessons.check_switched_off(p, s.model, s.row, s.neuron)


def estimate(s: Any, value: Any) -> Verdict:
    return lessons.check_estimate(value, s.activation, s.gradient)


def slope(s: Any, foretold: float, measured: float) -> Verdict:
    answer = {"foretold": foretold, "measured": measured}
    neuron = ct.NeuronSet.of(s.neuron)
    return lessons.check_slope_and_ablation(answer, s.model, s.row, neuron, 0.02)


def missing(first: float, second: float) -> Verdict:
    answer, sums = dict(zip(ESTIMATES, (first, second), strict=True)), (0.2, 0.39)
    return lessons.check_missing_shares(answer, 0.4, dict(zip(ESTIMATES, sums, strict=True)))


def z_score(s: Any, *, ddof: int = 0, control: int = 1, mean: int = 1, spread: int = 1) -> Verdict:
    values = s.scores.values[MLP][:, 0, 152] - control * s.control_scores.values[MLP][:, 0, 152]
    own = values[s.scores.cultures.index("Iran")] - mean * values.mean()
    z = own / values.std(correction=ddof) if spread else own
    return lessons.check_z_score(z, s.scores, s.control_scores, s.neuron, "Iran")


def difference(s: Any, cultural: float, control: float) -> Verdict:
    answer = cultural * s.scores.total(MLP) + control * s.control_scores.total(MLP)
    return lessons.check_difference(answer, s.scores, s.control_scores)


def carriers(s: Any, *, subtract: bool = True, clamp: bool = True) -> Verdict:
    scores = ct.attribute(s.model, s.food, progress=False)
    control = ct.attribute(s.model, s.food_control, clamp=clamp, progress=False)
    answer = ct.culture_general(scores, control if subtract else None)
    return lessons.check_carriers(answer, s.model, s.food, s.food_control)


def auroc(s: Any, share: float, *, reverse: bool = False) -> Verdict:
    value = ct.grade_scores(s.scores, s.key).auroc
    answer = (1 - value if reverse else value) * share
    return lessons.check_auroc(answer, s.scores, s.key)


def own_rows(s: Any, **columns: Any) -> Verdict:
    other = s.mine.assign(**{"template": "short", "prompt": "Rice or bread? Answer:", **columns})
    rows = ct.questions(pd.concat([s.mine, other], ignore_index=True))
    return lessons.check_own_rows(rows, s.model)


def columns(s: Any, names: Any) -> Verdict:
    theirs = s.mine.rename(columns={"culture": "country", "answer": "gold"})
    return lessons.check_columns(names, theirs, ct.questions(s.mine))


def wording(s: Any, text: str) -> Verdict:
    return lessons.check_wording(Template(text, name="mine"), s.plain)


def held(s: Any, share: float) -> Verdict:
    return lessons.check_held(share, s.ranking, ["L0.mlp"])


def without(s: Any) -> ct.NeuronSet:
    return ct.culture_general(s.scores)


def of_mlp(neurons: ct.NeuronSet) -> ct.NeuronSet:
    return ct.NeuronSet.of({MLP: neurons[MLP]})


def parts(s: Any, mlp: ct.NeuronSet, attention: ct.NeuronSet) -> Verdict:
    return lessons.check_parts({"MLP": mlp, "attention": attention}, s.general)


def precision(s: Any) -> float:
    return ct.grade(s.general, s.key).precision


RIGHT: dict[str, Callable[[Any], Verdict]] = {
    "residual stream": residual,
    "switched off": lambda s: switched_off(s, probability(s, 0.0)),
    "estimate": lambda s: estimate(s, torch.tensor(0.2)),
    "slope": lambda s: slope(s, 0.02, probability(s, 1.0) - probability(s, 0.0)),
    "missing": lambda s: missing(0.5, 0.025),
    "underestimated": lambda s: lessons.check_underestimated(f"L0.{MLP}.5", s.judged),
    "came in": lambda s: lessons.check_came_in(without(s) - s.general, s.scores, s.general),
    "cost": lambda s: lessons.check_cost(65, s.table),
    "precision": lambda s: lessons.check_precision(precision(s), s.general, s.key),
    "difference": lambda s: difference(s, 1, -1),
    "parts": lambda s: parts(s, of_mlp(s.general), s.general - of_mlp(s.general)),
    "format": lambda s: lessons.check_format_neurons(
        ct.culture_general(s.control_scores) - s.general, s.control_scores, s.general
    ),
    "z": z_score,
    "neighbour": lambda s: lessons.check_worst_neighbour(("A", "B"), s.effects),
    "union": lambda s: lessons.check_union(reduce(or_, s.specific.values()), s.specific),
    "carriers": carriers,
    "share of one": lambda s: lessons.check_share_of_one(0.75, s.cultures),
    "by chance": lambda s: lessons.check_shared_by_chance(0.4, 20, 1000),
    "smallest p": lambda s: lessons.check_smallest_p(1 / 7, 6),
    "auroc": lambda s: auroc(s, 1),
    "own rows": own_rows,
    "columns": lambda s: columns(s, {"culture": "country", "answer": "gold"}),
    "wording": lambda s: wording(s, "{culture}. {question}\n{options}\nAnswer:"),
    "held": lambda s: held(s, 0.75),
    "saved": lambda s: lessons.check_saved(20.0, s.after),
    "yardstick": lambda s: lessons.check_yardstick(
        ct.random_neurons(s.model, like=s.general, layer_matched=True), s.general
    ),
}

WRONG: list[tuple[str, Callable[[Any], Verdict]]] = [
    ("What the MLPs write is missing", lambda s: residual(s, mlps=0)),
    ("What attention writes is missing", lambda s: residual(s, attention=0)),
    ("The embedding is missing", lambda s: residual(s, embedding=0)),
    ("Add hook_embed and", lambda s: residual(s, mlps=2)),
    ("of the model as it is", lambda s: switched_off(s, probability(s, 1.0))),
    ("That is the neuron doubled", lambda s: switched_off(s, probability(s, 2.0))),
    (
        "what is left is asked for",
        lambda s: switched_off(s, probability(s, 1.0) - probability(s, 0.0)),
    ),
    ("take the softmax", lambda s: switched_off(s, 7.0)),
    ("Multiply this neuron alone", lambda s: switched_off(s, 0.1234)),
    ("The sign", lambda s: estimate(s, -0.2)),
    ("That is the gradient alone", lambda s: estimate(s, 0.6)),
    ("the last position alone", lambda s: estimate(s, -0.3)),
    ("the published score", lambda s: estimate(s, (s.activation * s.gradient).max())),
    ("position by position", lambda s: estimate(s, 1.8)),
    ("A single finite number", lambda s: estimate(s, s.activation)),
    ("A drop is P(y) before", lambda s: slope(s, -0.02, 0.5)),
    ("one whole step down", lambda s: slope(s, 0.5, 0.5)),
    ("not what it loses", lambda s: slope(s, 0.02, probability(s, 0.0))),
    (
        "A drop is P(y) before",
        lambda s: slope(s, 0.02, probability(s, 0.0) - probability(s, 1.0)),
    ),
    ("factor=0.0", lambda s: slope(s, 0.02, 0.0)),
    ("divide by the change", lambda s: missing(0.2, 0.01)),
    ("in percent", lambda s: missing(50, 2.5)),
    ("what it misses is asked for", lambda s: missing(0.5, 0.975)),
    ("take abs", lambda s: missing(-0.5, -0.025)),
    ("abs(sum - difference)", lambda s: missing(0.1, 0.1)),
    ("not among", lambda s: lessons.check_underestimated("L9.mlp.hook_post.5", s.judged)),
    ("overestimated", lambda s: lessons.check_underestimated(f"L2.{MLP}.7", s.judged)),
    ("largest drop", lambda s: lessons.check_underestimated(f"L1.{MLP}.6", s.judged)),
    ("take `general` out", lambda s: lessons.check_came_in(without(s), s.scores, s.general)),
    (
        "Those went out",
        lambda s: lessons.check_came_in(s.general - without(s), s.scores, s.general),
    ),
    ("in both", lambda s: lessons.check_came_in(without(s) & s.general, s.scores, s.general)),
    ("Select with `scores`", lambda s: lessons.check_came_in(s.key, s.scores, s.general)),
    ("The sign", lambda s: lessons.check_cost(-65, s.table)),
    ("compare with `random`", lambda s: lessons.check_cost(70, s.table)),
    ("the cost to 'ordering'", lambda s: lessons.check_cost(1, s.table)),
    ("minus the change under", lambda s: lessons.check_cost(3, s.table)),
    (
        "That is recall",
        lambda s: lessons.check_precision(ct.grade(s.general, s.key).recall, s.general, s.key),
    ),
    (
        "Only MLP neurons",
        lambda s: lessons.check_precision(
            len(s.general & s.key) / len(s.general), s.general, s.key
        ),
    ),
    ("in percent", lambda s: lessons.check_precision(100 * precision(s), s.general, s.key)),
    ("how many", lambda s: lessons.check_precision(len(s.general & s.key), s.general, s.key)),
    ("The control is not subtracted", lambda s: difference(s, 1, 0)),
    ("The other way round", lambda s: difference(s, -1, 1)),
    ("one minus the other", lambda s: difference(s, 1, 1)),
    ("of shape", lambda s: lessons.check_difference(s.activation, s.scores, s.control_scores)),
    ("swapped", lambda s: parts(s, s.general - of_mlp(s.general), of_mlp(s.general))),
    ("what is left", lambda s: parts(s, of_mlp(s.general), s.general)),
    ("not in `general`", lambda s: parts(s, s.key, s.key)),
    (
        "still in it",
        lambda s: lessons.check_format_neurons(
            ct.culture_general(s.control_scores), s.control_scores, s.general
        ),
    ),
    ("the population's deviation", lambda s: z_score(s, ddof=1)),
    ("Of the difference", lambda s: z_score(s, control=0)),
    ("Divide by the standard", lambda s: z_score(s, spread=0)),
    ("Subtract the mean", lambda s: z_score(s, mean=0)),
    ("own mask", lambda s: lessons.check_worst_neighbour(("A", "A"), s.effects)),
    ("swapped", lambda s: lessons.check_worst_neighbour(("B", "A"), s.effects)),
    ("That one gains", lambda s: lessons.check_worst_neighbour(("C", "A"), s.effects)),
    ("by accuracy", lambda s: lessons.check_worst_neighbour(("B", "C"), s.effects)),
    ("A pair", lambda s: lessons.check_worst_neighbour("A", s.effects)),
    (
        "what all share",
        lambda s: lessons.check_union(reduce(and_, s.specific.values()), s.specific),
    ),
    ("one culture's set", lambda s: lessons.check_union(s.specific["Iran"], s.specific)),
    ("no culture's set", lambda s: lessons.check_union(s.key, s.specific)),
    ("The control is not subtracted", lambda s: carriers(s, subtract=False)),
    ("in percent", lambda s: lessons.check_share_of_one(75, s.cultures)),
    ("the drop itself", lambda s: lessons.check_share_of_one(0.3, s.cultures)),
    ("not by their mean", lambda s: lessons.check_share_of_one(3.0, s.cultures)),
    ("gains at 0", lambda s: lessons.check_share_of_one(0.5, s.cultures)),
    ("to be in a set", lambda s: lessons.check_shared_by_chance(0.02, 20, 1000)),
    ("in both sets", lambda s: lessons.check_shared_by_chance(0.0004, 20, 1000)),
    ("count neurons", lambda s: lessons.check_shared_by_chance(0.4 / 39.6, 20, 1000)),
    ("Never 0", lambda s: lessons.check_smallest_p(0, 6)),
    ("counts too", lambda s: lessons.check_smallest_p(1 / 6, 6)),
    ("best of n + 1", lambda s: lessons.check_smallest_p(0.05, 6)),
    ("the wrong way round", lambda s: auroc(s, 1, reverse=True)),
    ("at most 1", lambda s: auroc(s, 100)),
    ("ask about two", lambda s: lessons.check_own_rows(ct.questions(s.mine[:1]), s.model)),
    ("one wording", lambda s: own_rows(s, template="plain")),
    ("share its `id`", lambda s: own_rows(s, id="other")),
    ("Rows are asked for", lambda s: lessons.check_own_rows(s.mine, s.model)),
    ("The other way round", lambda s: columns(s, {"country": "culture", "gold": "answer"})),
    ("There is no column", lambda s: columns(s, {"culture": "land", "answer": "gold"})),
    ("not the same ones", lambda s: columns(s, {"culture": "id", "answer": "gold"})),
    ("A dict", lambda s: columns(s, ["country", "gold"])),
    ("{culture} is missing", lambda s: wording(s, "{question}\n{options}\nAnswer:")),
    ("ends with a blank", lambda s: wording(s, "{culture}. {question}\n{options}\nAnswer: ")),
    ("A Template", lambda s: lessons.check_wording("{culture}", s.plain)),
    ("how many", lambda s: held(s, 15)),
    ("in percent", lambda s: held(s, 75)),
    ("share of modules", lambda s: held(s, 1 / 3)),
    ("the other modules", lambda s: held(s, 0.25)),
    ("a point is a hundredth", lambda s: lessons.check_saved(0.2, s.after)),
    ("The sign", lambda s: lessons.check_saved(-20.0, s.after)),
    ("training elsewhere", lambda s: lessons.check_saved(45.0, s.after)),
    ("to the task", lambda s: lessons.check_saved(-10.0, s.after)),
    ("the culture neurons themselves", lambda s: lessons.check_yardstick(s.general, s.general)),
    ("as many as there are", lambda s: lessons.check_yardstick(s.key, s.general)),
    (
        "layer_matched=True",
        lambda s: lessons.check_yardstick(ct.random_neurons(s.model, like=s.general), s.general),
    ),
]

CHECKS = [name for name in lessons.__all__ if name.startswith("check_")]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_right(name: str, scene: Any) -> None:
    verdict = RIGHT[name](scene)
    assert verdict.state == "right", verdict


@pytest.mark.parametrize(("why", "answered"), WRONG, ids=[why for why, _ in WRONG])
def test_a_wrong_answer_is_wrong_with_its_sentence(
    why: str, answered: Callable[[Any], Verdict], scene: Any
) -> None:
    verdict = answered(scene)
    assert verdict.state == "wrong"
    assert why in verdict.why


@pytest.mark.parametrize("name", CHECKS)
def test_an_open_stub_is_not_yet_an_answer(name: str) -> None:
    check = getattr(lessons, name)
    rest = [None] * (check.__wrapped__.__code__.co_argcount - 1)
    for stub in (..., (..., ...), {"MLP": ...}):
        assert check(stub, *rest).state == "not yet"


def test_every_check_is_tried() -> None:
    assert len(RIGHT) == len(CHECKS)


def test_a_verdict_shows_itself_with_its_text_escaped() -> None:
    verdict = Verdict("wrong", "Is 1 < 2?")
    assert repr(verdict) == "Wrong. Is 1 < 2?"
    assert "1 &lt; 2" in verdict._repr_html_()


def test_a_missing_real_model_is_one_sentence() -> None:
    error = MissingFileError("Its wheel is not installed.")
    with (
        patch.object(real, "load_model", side_effect=error),
        pytest.raises(real.LeftOutError, match=r"^This section is left out: Its wheel") as left_out,
    ):
        lessons.real_model()
    assert left_out.value._render_traceback_() == [str(left_out.value)]
