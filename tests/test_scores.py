"""Sums by culture over distinct questions, whatever the batches; files hold every bit."""

import itertools
import json
from dataclasses import replace

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from culnig_tl.errors import InvalidInputError, MissingFileError, UnknownNameError
from culnig_tl.files import DamagedFileError
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
    with pytest.raises(InvalidInputError, match="is no file of neuron scores; give a file that"):
        NeuronScores.load(tmp_path / "x.safetensors")


def test_a_file_cut_short_is_refused_in_a_sentence(scores, tmp_path):
    path = tmp_path / "scores.safetensors"
    scores.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DamagedFileError, match=r"neuron scores that can no longer be read .* anew"):
        NeuronScores.load(path)
    path.write_text("hello")
    with pytest.raises(InvalidInputError, match="is no file of neuron scores"):
        NeuronScores.load(path)


def test_one_bit_anywhere_among_the_scores_is_seen(scores, tmp_path):
    path = tmp_path / "scores.safetensors"
    scores.save(path)
    whole = path.read_bytes()
    for place in range(len(whole) - 4 * 4 * 3, len(whole)):
        path.unlink()
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedFileError, match=r"changed after NeuronScores\.save wrote it"):
            NeuronScores.load(path)


def first_version(scores, path, **changes):
    """A file of scores as they were written before there were checksums."""
    header = {
        "format": "culnig_tl.NeuronScores",
        "version": 1,
        "cultures": scores.cultures,
        "n_questions": scores.n_questions,
        "n_prompts": scores.n_prompts,
        "source": dict(scores.source),
        **changes,
    }
    header = {name: value for name, value in header.items() if value is not ...}
    save_file(dict(scores.values), path, metadata={"culnig_tl": json.dumps(header)})
    return path


def test_files_of_the_first_version_are_still_read(scores, tmp_path):
    old = NeuronScores.load(first_version(scores, tmp_path / "old.safetensors"))
    assert torch.equal(old.values["attn.hook_q"], scores.values["attn.hook_q"])
    assert (old.cultures, old.n_prompts, dict(old.source)) == (
        scores.cultures,
        scores.n_prompts,
        dict(scores.source),
    )


@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"version": 3}, "of version 3, and this version of culnig_tl reads up to 2"),
        ({"version": None}, "of version None"),
        ({"version": 2}, "its checksum differs"),
        ({"cultures": ...}, "whose cultures is missing"),
        ({"cultures": None}, "whose cultures is None"),
        ({"cultures": "BA"}, "whose cultures is 'BA'"),
        ({"cultures": ["B", 5]}, "2 cultures, 1 different texts among them"),
        ({"cultures": ["B", "B"]}, "2 cultures, 1 different texts among them"),
        ({"cultures": ["B", "A", "C"]}, "3 cultures, 3 different texts among them, and 2 numbers"),
        ({"cultures": [], "n_prompts": []}, r"cultures is \(\)"),
        ({"n_questions": "2"}, "whose n_questions is '2'"),
        ({"n_questions": True}, "whose n_questions is True"),
        ({"n_questions": -1}, "n_questions is -1"),
        ({"n_questions": 2.5}, "whose n_questions is 2.5"),
        ({"n_prompts": [2, -2]}, "n_prompts is -2"),
        ({"n_prompts": [2, 1.5]}, "n_prompts is 1.5"),
        ({"n_prompts": {"B": 2}}, "whose n_prompts is {'B': 2}"),
        ({"source": []}, r"whose source is \[\]"),
        ({"source": {"sites": 5}}, "that cannot be used"),
        ({"source": {"sites": ["mlp.hook_post"]}}, "its sites are"),
        ({"source": {"sites": ["mlp.hook_post", "other"]}}, "its sites are"),
        ({"source": {"sites": [["mlp.hook_post"], "attn.hook_q"]}}, "that cannot be used"),
        ({"more": 1}, "with a field 'more'"),
        ({"n_prompts": [[[[[[]]]]]]}, "n_prompts is"),
    ],
)
def test_headers_that_fit_nothing_are_a_sentence(scores, tmp_path, changes, sentence):
    path = first_version(scores, tmp_path / "old.safetensors", **changes)
    with pytest.raises(InvalidInputError, match=sentence):
        NeuronScores.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused_when_made_and_when_read(scores, tmp_path, value):
    first_version(scores, tmp_path / "old.safetensors")
    values = {site: of_site.clone() for site, of_site in scores.values.items()}
    values["attn.hook_q"][1, 0, 1] = value
    sentence = r"1 of 8 scores at attn\.hook_q are not finite"
    with pytest.raises(InvalidInputError, match=sentence):
        replace(scores, values=values)
    path = tmp_path / "broken.safetensors"
    metadata = header_of(tmp_path / "old.safetensors")
    save_file(values, path, metadata=metadata)
    with pytest.raises(InvalidInputError, match=sentence):
        NeuronScores.load(path)


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "values is {}"),
        ({"a": torch.zeros(2, 3)}, r"shape \(2, 3\)"),
        ({"a": torch.zeros(3, 1, 1)}, r"shape \(3, 1, 1\) .* by culture \(2\)"),
        ({"a": torch.zeros(2, 1, 1, dtype=torch.int64)}, "type torch.int64"),
        ({5: torch.zeros(2, 1, 1)}, "values is {5:"),
    ],
)
def test_values_of_another_shape_are_a_sentence(values, sentence):
    with pytest.raises(InvalidInputError, match=sentence):
        NeuronScores(values, ("A", "B"), 1, (1, 1), {})
