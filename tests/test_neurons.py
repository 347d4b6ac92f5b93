"""Sets of neurons obey the algebra of sets and survive a file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.neurons import NeuronSet, neuron_id, parse_neuron_id

SHAPES = {"mlp.hook_post": (3, 8), "attn.hook_q": (3, 4)}


# What a set is made of; the set itself is made in the test, since beartype draws at random and
# hypothesis forbids that inside a strategy. Some sets know the shapes of their sites, some do not.
parts = st.tuples(
    st.fixed_dictionaries(
        {
            site: st.lists(
                st.tuples(st.integers(0, n_layers - 1), st.integers(0, width - 1)), max_size=6
            )
            for site, (n_layers, width) in SHAPES.items()
        }
    ),
    st.sets(st.sampled_from(sorted(SHAPES))),
)


def made(given_parts, **more) -> NeuronSet:
    found, shown = given_parts
    return NeuronSet.of(found, shapes={site: SHAPES[site] for site in shown}, **more)


def members(neurons: NeuronSet) -> set[tuple[str, int, int]]:
    return set(neurons)


@given(parts, parts)
def test_operators_are_those_of_sets(first, second):
    one, other = made(first), made(second)
    assert members(one | other) == members(one) | members(other)
    assert members(one & other) == members(one) & members(other)
    assert members(one - other) == members(one) - members(other)
    assert len(one | other) + len(one & other) == len(one) + len(other)
    assert members(one | other) == members(other | one)


@given(parts, parts)
def test_jaccard_is_shared_over_all(first, second):
    one, other = made(first), made(second)
    both, either = members(one) & members(other), members(one) | members(other)
    assert one.jaccard(other) == (len(both) / len(either) if either else 1.0)
    assert one.jaccard(one) == 1.0
    assert one.jaccard(other) == other.jaccard(one)


@given(parts)
def test_a_set_is_sorted_without_repeats_and_knows_its_members(found):
    neurons = made(found)
    for site in neurons.sites:
        assert list(neurons[site]) == sorted(set(neurons[site]))
    assert len(neurons) == len(members(neurons)) == len(list(neurons))
    assert all(neuron in neurons for neuron in members(neurons))
    assert ("mlp.hook_post", 99, 0) not in neurons
    assert neurons["no such site"] == ()


@given(parts, parts)
def test_per_layer_counts_every_neuron(first, second):
    one, other = made(first), made(second)
    for neurons in (one, one | other):
        counts = neurons.per_layer()
        assert int(counts.to_numpy().sum()) == len(neurons)
        for site, layer, _ in neurons:
            in_layer = [1 for at, where, _ in neurons if (at, where) == (site, layer)]
            assert counts.loc[layer, site] == len(in_layer)


def test_per_layer_has_a_row_for_every_layer_of_the_model():
    neurons = NeuronSet.of({"mlp.hook_post": [(1, 0)]}, shapes={"mlp.hook_post": (3, 8)})
    assert neurons.per_layer()["mlp.hook_post"].tolist() == [0, 1, 0]


@given(parts, st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=12, max_size=12))
def test_a_saved_set_comes_back_equal(tmp_path_factory, found, values):
    scores = dict(zip(made(found), values, strict=False))
    neurons = made(found, scores=scores, source={"culture": "Türkiye", "top": 0.003})
    path = tmp_path_factory.mktemp("set") / "neurons.json"
    neurons.save(path)
    assert NeuronSet.load(path) == neurons


def test_scores_follow_their_neurons_best_first():
    neurons = NeuronSet.of(
        {"mlp.hook_post": [(1, 2), (0, 1)], "attn.hook_q": [(0, 0)]},
        scores={
            ("mlp.hook_post", 1, 2): 3.0,
            ("mlp.hook_post", 0, 1): 1.0,
            ("attn.hook_q", 0, 0): 2.0,
        },
    )
    assert neurons.scores["mlp.hook_post"] == (1.0, 3.0)
    frame = neurons.to_frame()
    assert list(frame.columns) == ["site", "layer", "neuron", "score"]
    assert frame["score"].tolist() == [3.0, 2.0, 1.0]
    assert frame.to_dict("records")[0]["site"] == "mlp.hook_post"
    assert frame[["layer", "neuron"]].to_numpy()[0].tolist() == [1, 2]
    unscored = NeuronSet.of({"attn.hook_q": [(0, 0)]}).to_frame()
    assert unscored["score"].isna().all()


def test_a_neuron_has_one_name_whoever_lists_it():
    neurons = NeuronSet.of({"mlp.hook_post": [(3, 17)], "attn.hook_q": [(0, 1)]})
    assert [neuron_id(*neuron) for neuron in neurons] == ["L3.mlp.hook_post.17", "L0.attn.hook_q.1"]


@pytest.mark.parametrize("neuron", [("mlp.hook_post", 3, 17), ("attn.hook_q", 0, 0)])
def test_a_name_leads_back_to_its_neuron(neuron):
    assert parse_neuron_id(neuron_id(*neuron)) == neuron


@pytest.mark.parametrize("name", ["", "L3.17", "3.mlp.hook_post.17", "L3.mlp.hook_post.x"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(InvalidInputError, match=r"is no neuron; write .* 'L3\.mlp\.hook_post\.17'"):
        parse_neuron_id(name)


@pytest.mark.parametrize("neuron", [(-1, 0), (0, -1)])
def test_a_negative_index_is_refused(neuron):
    with pytest.raises(InvalidInputError, match="count from 0"):
        NeuronSet.of({"mlp.hook_post": [neuron]})


@pytest.mark.parametrize("neuron", [(3, 0), (0, 8)])
def test_a_neuron_outside_the_shape_is_refused_with_both_numbers(neuron):
    with pytest.raises(InvalidInputError, match="3 layers of 8"):
        NeuronSet.of({"mlp.hook_post": [neuron]}, shapes=SHAPES)


def test_a_missing_file_and_a_wrong_one_are_sentences(tmp_path):
    with pytest.raises(MissingFileError, match="There is no file"):
        NeuronSet.load(tmp_path / "none.json")
    for content in ([1, 2], {"format": "something else"}, {"neurons": {}}):
        (tmp_path / "wrong.json").write_text(json.dumps(content))
        with pytest.raises(InvalidInputError, match="is no set of neurons"):
            NeuronSet.load(tmp_path / "wrong.json")
