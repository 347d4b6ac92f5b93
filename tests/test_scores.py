"""Sums by culture over distinct questions, whatever the batches; files hold every bit."""

import itertools
import json

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from culnig_tl.errors import InvalidInputError, MissingFileError, UnknownNameError
from culnig_tl.scores import NeuronScores, ScoreAccumulator

SITES = {"mlp.hook_post": (2, 3), "attn.hook_q": (2, 2)}


def accumulated(scores, cultures, ids, cuts, known=()):
    """The scores of a data set, fed in batches that end at ``cuts``."""
    accumulator = ScoreAccumulator(known)
    edges = [0, *sorted(cuts), len(ids)]
    for start, stop in itertools.pairwise(edges):
        if start < stop:
            accumulator.update(
                {site: values[start:stop] for site, values in scores.items()},
                cultures=cultures[start:stop],
                ids=ids[start:stop],
            )
    return accumulator.finish(model="m")


@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("1234")), min_size=1, max_size=9),
    st.lists(st.integers(0, 9), max_size=3),
    st.integers(0, 2**31),
)
def test_scores_equal_the_naive_sums_however_they_are_batched(prompts, cuts, seed):
    cultures, ids = [c for c, _ in prompts], [q for _, q in prompts]
    generator = torch.Generator().manual_seed(seed)
    scores = {
        site: torch.randn(len(ids), *shape, generator=generator) for site, shape in SITES.items()
    }
    found = accumulated(scores, cultures, ids, [cut for cut in cuts if cut <= len(ids)])
    assert found.n_questions == len(set(ids))
    assert found.n_prompts == tuple(cultures.count(culture) for culture in found.cultures)
    for site, (n_layers, width) in SITES.items():
        for layer in range(n_layers):
            for k in range(width):
                column = scores[site][:, layer, k].tolist()
                naive = reference.culture_scores(column, cultures, ids)
                assert found.cultures == tuple(naive)
                # the result is rounded to float32 once
                assert found.values[site][:, layer, k].tolist() == pytest.approx(
                    list(naive.values()), rel=1e-6, abs=1e-7
                )


@pytest.fixture
def scores() -> NeuronScores:
    values = {site: torch.randn(4, *shape) for site, shape in SITES.items()}
    return accumulated(values, ["B", "A", "B", "A"], ["q1", "q1", "q2", "q2"], [1])


def test_known_cultures_fix_the_axis_and_may_have_no_score():
    values = {"attn.hook_q": torch.ones(1, 2, 2)}
    found = accumulated(values, ["B"], ["q"], [], known=["A", "B"])
    assert found.cultures == ("A", "B")
    assert found.n_prompts == (0, 1)
    assert found.values["attn.hook_q"][:, 0, 0].tolist() == [0.0, 1.0]


def test_float32_sums_do_not_lose_small_scores():
    """In float32, 1 + 1e-8 is 1: only a wider sum sees small scores beside a large one."""
    values = torch.full((10_001, 1, 1), 1e-8)
    values[0] = 1.0
    accumulator = ScoreAccumulator()
    for value in values.split(1000):
        accumulator.update({"s": value}, cultures=["A"] * len(value), ids=["q"] * len(value))
    assert accumulator.finish().values["s"].item() == pytest.approx(1.0001, rel=1e-6)


def test_totals_are_sums_over_cultures(scores):
    for site in SITES:
        by_culture = [scores.of_culture(site, culture) for culture in scores.cultures]
        torch.testing.assert_close(scores.total(site), by_culture[0] + by_culture[1])


def test_an_unknown_culture_lists_the_known_ones(scores):
    with pytest.raises(UnknownNameError, match=r"'Atlantis'.*B, A"):
        scores.of_culture("mlp.hook_post", "Atlantis")


def test_a_frame_holds_the_best_of_all_sites_best_first(scores):
    everything = sorted(
        (
            (scores.total(site)[layer, k].item(), site, layer, k)
            for site, (n_layers, width) in SITES.items()
            for layer in range(n_layers)
            for k in range(width)
        ),
        reverse=True,
    )
    frame = scores.to_frame(top=4)
    assert list(frame.columns) == ["site", "layer", "neuron", "score"]
    assert list(frame.itertuples(index=False, name=None)) == [
        (site, layer, k, score) for score, site, layer, k in everything[:4]
    ]


def test_saved_scores_come_back_bit_by_bit(scores, tmp_path):
    scores.save(tmp_path / "scores.safetensors")
    loaded = NeuronScores.load(tmp_path / "scores.safetensors")
    assert loaded.sites == scores.sites == tuple(SITES)
    for site in SITES:
        assert torch.equal(loaded.values[site], scores.values[site])
    for name in ("cultures", "n_questions", "n_prompts"):
        assert getattr(loaded, name) == getattr(scores, name)
    assert dict(loaded.source) == dict(scores.source)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.safetensors"]


def test_nothing_added_is_a_sentence():
    with pytest.raises(InvalidInputError, match="no scores yet"):
        ScoreAccumulator().finish()


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(MissingFileError, match="There is no file"):
        NeuronScores.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"other": "x"},
        {"culnig_tl": "not json"},
        {"culnig_tl": json.dumps({"format": "culnig_tl.Something"})},
    ],
)
def test_other_tensors_are_refused_in_a_sentence(tmp_path, metadata):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(InvalidInputError, match="holds no neuron scores"):
        NeuronScores.load(tmp_path / "x.safetensors")


def test_a_file_cut_short_is_refused_in_a_sentence(scores, tmp_path):
    path = tmp_path / "scores.safetensors"
    scores.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InvalidInputError, match="holds no neuron scores"):
        NeuronScores.load(path)
    path.write_text("hello")
    with pytest.raises(InvalidInputError, match="holds no neuron scores"):
        NeuronScores.load(path)
