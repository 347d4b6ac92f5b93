"""Membership equals selecting from the drawn questions one by one."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from culnig_tl.attribution import attribute
from culnig_tl.benchmarks import load_benchmark
from culnig_tl.errors import InvalidInputError
from culnig_tl.models import load_model
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import questions
from culnig_tl.selection import culture_general
from culnig_tl.validation import membership
from culnig_tl.validation.membership import resampled

SITES = ["mlp.hook_post"]
SELECT: Callable[..., NeuronSet] = partial(culture_general, attention_top=0.0)


@pytest.fixture(scope="module")
def atlas():
    return load_model()


@pytest.fixture(scope="module")
def data():
    cultural = load_benchmark("atlas", split="identify", limit=24)
    control = load_benchmark("atlas-control", split="identify", limit=24)
    general = load_benchmark("atlas-commonsense", split="identify", limit=12)
    return {"cultural": cultural, "control": control, "general": general}


def drawn_rows(rows, counts):
    """Each row as often as it was drawn, every copy a question of its own."""
    copies = []
    for row, count in zip(rows.to_list(), counts.tolist(), strict=True):
        copies += [{**row, "id": f"{row['id']} copy {n}"} for n in range(int(count))]
    return questions(copies)


@pytest.mark.parametrize("recipe", ["published", "selective"])
def test_draws_equal_selections_from_drawn_rows(atlas, data, recipe):
    draws = 3
    select: Callable[..., NeuronSet] = partial(SELECT, recipe=recipe)
    given = data if recipe == "selective" else {k: data[k] for k in ("cultural", "control")}
    sure = membership(
        atlas, **given, select=select, draws=draws, seed=4, sites=SITES, progress=False
    )
    weights = resampled({role: rows["id"][:] for role, rows in given.items()}, draws, 4)
    counts: dict[str, int] = {}
    for draw in range(1, draws + 1):
        scores = {
            role: attribute(
                atlas,
                drawn_rows(rows, weights[role][draw]),
                sites=SITES,
                clamp=role != "cultural",
                progress=False,
            )
            for role, rows in given.items()
        }
        for neuron in select(**scores):
            counts[str(neuron)] = counts.get(str(neuron), 0) + 1
    frame = sure.frame[sure.frame["membership"] > 0]
    names = [f"L{r.layer}.{r.site}.{r.neuron}" for r in frame.itertuples()]
    shares = dict(zip(names, frame["membership"], strict=True))
    assert shares == pytest.approx({name: count / draws for name, count in counts.items()})


def test_all_questions_select_what_attribute_selects(atlas, data):
    sure = membership(atlas, data["cultural"], select=SELECT, draws=1, sites=SITES, progress=False)
    scores = attribute(atlas, data["cultural"], sites=SITES, progress=False)
    assert list(sure.neurons) == list(SELECT(scores))
    assert sure.frame["selected"].sum() == len(sure.neurons)


def test_the_core_is_what_nearly_every_draw_selects(atlas, data):
    sure = membership(atlas, data["cultural"], select=SELECT, draws=20, sites=SITES, progress=False)
    core = sure.core(0.9)
    assert 0 < len(core) < len(sure.frame)
    assert min(core.scores["mlp.hook_post"]) >= 0.9
    assert sure.frame["membership"].is_monotonic_decreasing
    with pytest.raises(InvalidInputError, match=r"share is 2\.0"):
        sure.core(2.0)


def test_a_question_is_drawn_with_all_its_rows_and_its_control():
    ids = {"cultural": ["a", "a", "b", "c"], "control": ["c", "a"], "recognition": ["x", "y"]}
    weights = resampled(ids, 50, 0)
    assert torch.equal(weights["cultural"][:, 0], weights["cultural"][:, 1])
    assert torch.equal(weights["cultural"][:, 3], weights["control"][:, 0])
    assert (weights["recognition"].sum(1) == 2).all()
    distinct = weights["cultural"][:, [0, 2, 3]]
    assert (distinct.sum(1) == 3).all()
    assert torch.equal(weights["cultural"][0], torch.ones(4))
