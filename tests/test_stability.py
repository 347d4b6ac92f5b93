"""Halves and single ablations against doing it the long way."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from culnig_tl.attribution import attribute
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import ablation_effects
from culnig_tl.hooks import scaled_neurons
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import questions
from culnig_tl.selection import culture_general
from culnig_tl.validation import split_half
from culnig_tl.validation.stability import first_half

SITES = ["mlp.hook_post", "attn.hook_q"]


def of_ids(rows: Dataset, ids: set[str]) -> Dataset:
    return rows.select([i for i, name in enumerate(rows["id"]) if name in ids])


def test_an_ablation_is_the_mean_of_what_single_prompts_lose(model, rows):
    neurons = NeuronSet.of({"mlp.hook_post": [(0, 3), (2, 7)], "attn.hook_v": [(1, 4)]})
    found = ablation_effects(model, rows, neurons, factor=0.5, progress=False)
    assert found[["site", "layer", "neuron"]].values.tolist() == [list(each) for each in neurons]
    for line, (site, layer, neuron) in zip(found.to_dict("records"), neurons, strict=True):
        drops, lost = [], []
        for row in rows:
            tokens = torch.tensor([model.tokenizer(row["prompt"])["input_ids"]])
            (answer,) = model.tokenizer.encode(row["answer"], add_special_tokens=False)
            before = model(tokens)[0, -1].softmax(-1)
            with scaled_neurons(model, NeuronSet.of({site: [(layer, neuron)]}), factor=0.5):
                after = model(tokens)[0, -1].softmax(-1)
            drops.append(before[answer].item() - after[answer].item())
            lost.append((before.argmax() == answer).item() - (after.argmax() == answer).item())
        mean = sum(drops) / len(drops)
        spread = (sum((drop - mean) ** 2 for drop in drops) / (len(drops) - 1)) ** 0.5
        assert line["drop"] == pytest.approx(mean, abs=1e-6)  # evaluate answers in float32
        assert line["standard_error"] == pytest.approx(spread / len(drops) ** 0.5, abs=1e-6)
        assert line["accuracy_drop"] == pytest.approx(100 * sum(lost) / len(lost))
    assert found["drop"].abs().max() > 1e-4


def test_no_neurons_cannot_be_ablated(model, rows):
    with pytest.raises(InvalidInputError, match="no neurons"):
        ablation_effects(model, rows, NeuronSet.of({}))


@pytest.mark.filterwarnings("ignore:The control scores higher")
def test_halves_select_what_scoring_each_half_alone_selects(model, rows):
    found = split_half(
        model, rows, rows, splits=2, sites=SITES, select=generous, token_budget=64, progress=False
    )
    for split in range(2):
        generator = np.random.default_rng([0, split])
        first = first_half([[(name, "") for name in rows["id"]]] * 2, generator)
        sets, totals = [], []
        for ids in (first, set(rows["id"]) - first):
            part = of_ids(rows, ids)
            cultural = attribute(model, part, sites=SITES, progress=False)
            control = attribute(model, part, sites=SITES, clamp=True, progress=False)
            sets.append(generous(cultural, control))
            differences = [cultural.total(site) - control.total(site) for site in SITES]
            totals.append(torch.cat([each.flatten() for each in differences]))
        one, other = sets
        line = found.to_dict("records")[split]
        assert (line["first"], line["second"]) == (len(one), len(other))
        assert line["shared"] == len(one & other)
        assert line["jaccard"] == pytest.approx(one.jaccard(other))
        expected = len(one) * len(other) / len(totals[0])
        assert line["by_chance"] == pytest.approx(expected / (len(one) + len(other) - expected))
        ranks = torch.stack([midranks(total) for total in totals])
        expected = torch.corrcoef(ranks)[0, 1].item()
        assert line["rank_correlation"] == pytest.approx(expected, abs=1e-9)


def midranks(values: torch.Tensor) -> torch.Tensor:
    """The mean place of each value among all, by counting."""
    return torch.stack(
        [(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values]
    ).double()


def generous(cultural, control=None, recognition=None):
    return culture_general(cultural, control, recognition, mlp_top=0.2, attention_top=0.1)


def test_halves_share_no_question_and_controls_follow_theirs(rows):
    others = questions([{**row, "id": f"other-{row['id']}"} for row in rows])
    pairs = [[(name, "") for name in each["id"]] for each in (rows, rows, others)]
    first = first_half(pairs, np.random.default_rng(0))
    known = set(rows["id"])
    assert len(first & known) == len(known) // 2
    assert len(first - known) == len(known) // 2


def test_topics_are_halved_where_there_are_several():
    pairs = [(f"{topic}{i}", topic) for topic in "abcd" for i in range(5)]
    first = first_half([pairs], np.random.default_rng(0))
    assert len(first) == 10
    assert len({name[0] for name in first}) == 2


def test_the_same_seed_cuts_the_same_way(model, rows):
    again = [split_half(model, rows, splits=2, seed=s, sites=SITES, progress=False) for s in (0, 0)]
    assert again[0].equals(again[1])


def test_a_single_question_cannot_be_cut(model, rows):
    with pytest.raises(InvalidInputError, match=r"1 splits of \[1\] questions"):
        split_half(model, rows.select([1]), splits=1)
    with pytest.raises(InvalidInputError, match="splits is 0; give a whole number from 1 up"):
        split_half(model, rows, splits=0)
