"""Sets of neurons obey the algebra of sets and survive a file."""

import json
import warnings

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from culnig_tl.attribution import attribute
from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.files import DamagedFileError
from culnig_tl.hooks import scaled_neurons
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.selection import culture_general

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
    assert [str(neuron) for neuron in neurons] == ["L3.mlp.hook_post.17", "L0.attn.hook_q.1"]


@pytest.mark.parametrize("neuron", [("mlp.hook_post", 3, 17), ("attn.hook_q", 0, 0)])
def test_a_name_leads_back_to_its_neuron(neuron):
    assert Neuron.parse(str(Neuron(*neuron))) == neuron
    assert Neuron.of(str(Neuron(*neuron))) == Neuron.of(neuron) == Neuron.of(Neuron(*neuron))


@pytest.mark.parametrize("name", ["", "L3.17", "3.mlp.hook_post.17", "L3.mlp.hook_post.x"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(InvalidInputError, match=r"is no neuron; write .* 'L3\.mlp\.hook_post\.17'"):
        Neuron.parse(name)


@pytest.mark.parametrize(
    "thing", [None, 7, ("mlp.hook_post", 1), ("mlp.hook_post", 1, 1.7), (1, 2, 3)]
)
@pytest.mark.usefixtures("as_for_a_user")
def test_what_is_no_neuron_is_refused(thing):
    with pytest.raises(InvalidInputError, match="is no neuron; give a Neuron, a name such as"):
        Neuron.of(thing)
    with pytest.raises(InvalidInputError, match="is no neuron"):
        NeuronSet.of([thing])


def test_a_set_is_made_of_whatever_means_neurons():
    neuron = Neuron("mlp.hook_post", 3, 17)
    expected = NeuronSet.of({"mlp.hook_post": [(3, 17)]})
    frame = pd.DataFrame({"site": ["mlp.hook_post"], "layer": [3], "neuron": [17]})
    for given_neurons in (
        neuron,
        str(neuron),
        [neuron],
        [str(neuron)],
        [("mlp.hook_post", 3, 17)],
        {neuron: 0.5}.keys(),
        frame,
        expected,
    ):
        assert NeuronSet.of(given_neurons) == expected
    assert NeuronSet.from_frame(frame) == expected
    with pytest.raises(InvalidInputError, match="no column layer; it has site, neuron"):
        NeuronSet.from_frame(frame.drop(columns="layer"))
    assert str(neuron) in expected
    assert neuron in expected
    assert "L3.mlp.hook_post.18" not in expected


@given(parts, parts)
def test_operators_keep_the_score_of_every_neuron(first, second):
    """A neuron of both sets has the first one's score; one without a score has NaN."""
    one, other = made(first), made(second)
    score_of = {neuron: float(number) for number, neuron in enumerate(one)}
    scored = NeuronSet.of(list(one), scores=score_of)
    for combined in (scored & other, scored - other, scored | other, other | scored):
        frame = combined.to_frame()
        scores = {Neuron(*place): score for *place, score in frame.itertuples(index=False)}
        for neuron in combined:
            expected = score_of.get(neuron, float("nan"))
            assert scores[neuron] == pytest.approx(expected, nan_ok=True)
    twice = NeuronSet.of(list(one), scores=dict.fromkeys(one, -1.0))
    assert (scored | twice).scores == (scored & twice).scores == scored.scores


def test_a_set_with_and_without_scores_survives_a_file(tmp_path):
    half = NeuronSet.of(
        ["L0.attn.hook_q.1", "L1.attn.hook_q.2"], scores={("attn.hook_q", 0, 1): 0.25}
    )
    half.save(tmp_path / "set.json")
    assert "NaN" not in (tmp_path / "set.json").read_text()
    assert NeuronSet.load(tmp_path / "set.json").to_frame().equals(half.to_frame())


def test_the_best_by_score():
    names = ["L0.attn.hook_q.1", "L1.attn.hook_q.2", "L2.mlp.hook_post.3"]
    scores = {Neuron.parse(name): score for name, score in zip(names, (0.1, 0.3, 0.3), strict=True)}
    neurons = NeuronSet.of(names, scores=scores, source={"model": "m"})
    assert [str(neuron) for neuron in neurons.top(2)] == names[1:]
    assert neurons.top(2).source == neurons.source
    assert [*neurons.top(9)] == [*neurons]
    assert len(neurons.top(0)) == 0
    with pytest.raises(InvalidInputError, match="k is -1"):
        neurons.top(-1)
    with pytest.raises(InvalidInputError, match="these 3 neurons carry no scores"):
        NeuronSet.of(names).top(1)


def test_a_set_says_in_a_line_what_it_is():
    source = {"kind": "culture-general", "model_name": "atlas"}
    neurons = NeuronSet.of(
        {"mlp.hook_post": [(layer, index) for layer in (0, 3) for index in range(9)]}
        | {"attn.hook_k": [(1, 2)]},
        source=source,
    )
    assert repr(neurons) == (
        "19 culture-general neurons of atlas: MLP output 18, k 1; layers 0 to 3"
    )
    assert repr(NeuronSet.of({})) == "0 neurons"
    assert repr(NeuronSet.of("L2.attn.hook_q.1")) == "1 neuron: q 1; layer 2"
    html = neurons._repr_html_()
    assert "19 culture-general neurons of atlas" in html
    assert "mlp.hook_post" in html
    hostile = NeuronSet.of("L2.attn.hook_q.1", source={"model_name": "<script>alert(1)</script>"})
    assert "<script>" not in hostile._repr_html_()


def test_a_set_remembers_its_model(loaded, model, rows):
    scores = attribute(model, rows, progress=False)
    general = culture_general(scores, mlp_top=0.05)
    assert general.source["model_name"] == model.cfg.model_name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for neurons in (general, general.top(2), general & general, general - general.top(1)):
            assert neurons.source["model"] == scores.source["model"]
            with scaled_neurons(model, neurons):
                pass
    other = loaded(2, "hooked", "float32")
    with (
        pytest.warns(UserWarning, match="chosen on .* with other weights"),
        scaled_neurons(other, general),
    ):
        pass
    with (
        pytest.raises(InvalidInputError, match=r"3 layers of 16 neurons at attn\.hook_[kv]; this"),
        scaled_neurons(loaded(4), culture_general(scores, attention_top=0.5)),
    ):
        pass


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


WRITTEN = {
    "format": "culnig_tl.NeuronSet",
    "version": 1,
    "neurons": {"mlp.hook_post": [[0, 1], [2, 7]]},
    "scores": {"mlp.hook_post": [0.5, None]},
    "shapes": {"mlp.hook_post": [3, 8]},
    "source": {"kind": "mine"},
}


def loaded_from(tmp_path, **changes):
    content = {name: value for name, value in (WRITTEN | changes).items() if value is not ...}
    (tmp_path / "set.json").write_text(json.dumps(content))
    return NeuronSet.load(tmp_path / "set.json")


def test_sets_written_by_hand_and_by_the_first_version_are_read(tmp_path):
    whole = loaded_from(tmp_path)
    assert [str(neuron) for neuron in whole] == ["L0.mlp.hook_post.1", "L2.mlp.hook_post.7"]
    assert whole.to_frame()["score"].tolist()[0] == 0.5
    assert loaded_from(tmp_path, version=2) == whole
    least = loaded_from(tmp_path, scores=..., shapes=..., source=...)
    assert list(least) == list(whole)
    backwards = {"mlp.hook_post": [[2, 7], [0, 1]]}, {"mlp.hook_post": [None, 0.5]}
    assert loaded_from(tmp_path, neurons=backwards[0], scores=backwards[1]) == whole


def test_a_set_that_was_changed_says_what_to_do_about_its_checksum(tmp_path):
    path = tmp_path / "set.json"
    NeuronSet.of({"mlp.hook_post": [(0, 1)]}, source={"kind": "mine"}).save(path)
    path.write_text(path.read_text().replace("   1\n", "   2\n"))
    with pytest.raises(
        DamagedFileError, match=r"changed after NeuronSet\.save .* delete its line \"checksum\" if"
    ):
        NeuronSet.load(path)
    lines = [line for line in path.read_text().splitlines() if '"checksum"' not in line]
    path.write_text("\n".join(lines).replace("},\n}", "}\n}"))
    assert [str(neuron) for neuron in NeuronSet.load(path)] == ["L0.mlp.hook_post.2"]


@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"version": 3}, "of version 3, and .* up to 2; install a newer one"),
        ({"version": "1"}, "of version '1'"),
        ({"version": ...}, "of version None"),
        ({"neurons": ...}, "whose neurons is missing"),
        ({"neurons": None}, "whose neurons is None"),
        ({"neurons": [[0, 1]]}, "whose neurons is"),
        ({"neurons": {"mlp.hook_post": None}}, "None is no list of pairs"),
        ({"neurons": {"mlp.hook_post": ""}}, "'' is no list of pairs"),
        ({"neurons": {"mlp.hook_post": {}}}, "{} is no list of pairs"),
        ({"neurons": {"mlp.hook_post": [5]}}, r"\[5\] is no list of pairs"),
        ({"neurons": {"mlp.hook_post": ["01"]}}, "is no list of pairs"),
        ({"neurons": {"mlp.hook_post": [[0]]}}, "cannot be used"),
        ({"neurons": {"mlp.hook_post": [[0, 1, 2]]}}, "cannot be used"),
        ({"neurons": {"mlp.hook_post": [["0", "1"]]}}, "cannot be used"),
        ({"neurons": {"mlp.hook_post": [[0, 1.5]]}}, "cannot be used"),
        ({"neurons": {"mlp.hook_post": [[0, True]]}}, "cannot be used"),
        ({"neurons": {"mlp.hook_post": [[0, -1]]}}, "cannot be used"),
        ({"neurons": {"mlp.hook_post": [[0, 1], [0, 1]]}}, "lists one twice"),
        ({"neurons": {"mlp.hook_post": [[0, 1], [3, 1]]}}, "3 layers of 8"),
        ({"scores": None}, "whose scores is None"),
        ({"scores": {"mlp.hook_post": [0.5]}}, "cannot be used"),
        ({"scores": {"mlp.hook_post": ["0.5", None]}}, "a score is '0.5'"),
        ({"scores": {"mlp.hook_post": [float("nan"), None]}}, "a score is nan"),
        ({"scores": {"mlp.hook_post": [10**400, None]}}, "a score is 1000"),
        ({"scores": {"mlp.hook_post": [True, None]}}, "a score is True"),
        ({"scores": {"attn.hook_q": [0.5]}}, "cannot be used"),
        ({"shapes": []}, "whose shapes is"),
        ({"shapes": {"mlp.hook_post": 5}}, "is no list of pairs"),
        ({"shapes": {"mlp.hook_post": [3]}}, "cannot be used"),
        ({"shapes": {"mlp.hook_post": ["3", "8"]}}, "cannot be used"),
        ({"source": "mine"}, "whose source is 'mine'"),
        ({"chcksum": "0"}, "with a field 'chcksum'"),
    ],
)
def test_a_set_of_any_other_shape_is_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(InvalidInputError, match=sentence) as refusal:
        loaded_from(tmp_path, **changes)
    assert "set.json is a set of neurons" in str(refusal.value)
