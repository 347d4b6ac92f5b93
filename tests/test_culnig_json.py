"""The authors' files are read and written, whatever a model's layers are called there."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import site_shape

# The tiny model: 3 layers, 64 MLP neurons, 4 heads of 8 (q: 32), 2 key-value heads (k, v: 16).
KEYS = {
    ("mlp.gate_proj", 2, 63): ("mlp.hook_pre", 2, 63),
    ("mlp.up_proj", 0, 5): ("mlp.hook_pre_linear", 0, 5),
    ("self_attn.q_proj", 1, 31): ("attn.hook_q", 1, 31),
    ("self_attn.k_proj", 1, 15): ("attn.hook_k", 1, 15),
    ("self_attn.v_proj", 0, 0): ("attn.hook_v", 0, 0),
    ("mlp.gate_up_proj", 1, 63): ("mlp.hook_pre", 1, 63),
    ("mlp.gate_up_proj", 1, 64): ("mlp.hook_pre_linear", 1, 0),
    ("self_attn.qkv_proj", 2, 31): ("attn.hook_q", 2, 31),
    ("self_attn.qkv_proj", 2, 32): ("attn.hook_k", 2, 0),
    ("self_attn.qkv_proj", 2, 63): ("attn.hook_v", 2, 15),
}


def written(path, neurons):
    """A file in the layout of the authors' decide_culture_general_neurons.py."""
    listed = [
        {"module_name": module, "layer_idx": layer, "neuron_idx": neuron, "attribute_score": score}
        for (module, layer, neuron), score in neurons.items()
    ]
    content = {"model_name": "a/model", "dataset_ids": {"blend": ["q1"]}, "top_neurons": listed}
    path.write_text(json.dumps(content, indent=4))
    return path


def scores_of(model, sites, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return NeuronScores(
        values={
            site: torch.randn(2, *site_shape(model, site), generator=generator) for site in sites
        },
        cultures=("Iran", "Türkiye"),
        n_questions=7,
        n_prompts=(4, 5),
        source={"sites": list(sites)},
    )


def test_a_list_of_neurons_is_read_with_fused_layers_too(model, tmp_path):
    path = written(tmp_path / "list.json", {key: 0.5 * i for i, key in enumerate(KEYS)})
    found = NeuronSet.from_culnig_json(path, model)
    assert set(found) == set(KEYS.values())
    scores = {
        (row["site"], row["layer"], row["neuron"]): row["score"]
        for row in found.to_frame().to_dict("records")
    }
    assert scores == {place: 0.5 * i for i, place in enumerate(KEYS.values())}
    assert found.source["model_name"] == "a/model"


def test_keys_alone_are_read_too(model, tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps([f"{m}_{layer}_{k}" for m, layer, k in KEYS]))
    assert set(NeuronSet.from_culnig_json(path, model)) == set(KEYS.values())


@given(st.data())
def test_a_set_that_was_written_is_read_back_equal(loaded, tmp_path_factory, data):
    model = loaded()
    sites = ("mlp.hook_pre", "mlp.hook_pre_linear", "attn.hook_q", "attn.hook_k", "attn.hook_v")
    shapes = {site: site_shape(model, site) for site in sites}
    chosen = {
        site: data.draw(
            st.sets(st.tuples(st.integers(0, layers - 1), st.integers(0, width - 1)), max_size=4)
        )
        for site, (layers, width) in shapes.items()
    }
    places = [(site, *place) for site, found in chosen.items() for place in found]
    values = data.draw(st.lists(st.floats(-1, 1), min_size=len(places), max_size=len(places)))
    neurons = NeuronSet.of(chosen, scores=dict(zip(places, values, strict=True)))
    path = tmp_path_factory.mktemp("json") / "set.json"
    neurons.to_culnig_json(path, model_name="a/model", dataset_ids={"blend": ["q1"]})
    back = NeuronSet.from_culnig_json(path, model)
    assert set(back) == set(neurons)
    assert {s: back.scores[s] for s in back.sites} == {s: neurons.scores[s] for s in back.sites}
    content = json.loads(path.read_text())
    assert set(content) == {"model_name", "dataset_ids", "top_neurons"}
    listed = [entry["attribute_score"] for entry in content["top_neurons"]]
    assert listed == sorted(listed, reverse=True)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_neurons_of_hook_post_are_written_as_up_proj_which_is_the_same(
    model, rows, tmp_path, factor
):
    """The MLP's output is linear in ``up``: the same intervention whatever the factor."""
    neurons = NeuronSet.of({"mlp.hook_post": [(0, k) for k in range(40)]})
    neurons.to_culnig_json(tmp_path / "set.json")
    theirs = NeuronSet.from_culnig_json(tmp_path / "set.json", model)
    assert theirs.sites == ("mlp.hook_pre_linear",)
    ours, others = (
        ct.evaluate(model, rows, neurons=each, factor=factor) for each in (neurons, theirs)
    )
    # float64 but for the rotary table
    assert others["probability"].tolist() == pytest.approx(ours["probability"].tolist(), rel=1e-9)


def test_scores_that_were_written_are_read_back_bit_by_bit(model, tmp_path):
    scores = scores_of(model, ct.PAPER_SITES)
    ids = [f"q{i}" for i in range(7)]
    scores.to_culnig_json(tmp_path / "blend_max_scores.json", ids=ids)
    back = NeuronScores.from_culnig_json(tmp_path / "blend_max_scores.json", model)
    assert back.cultures == scores.cultures
    assert back.n_questions == 7
    assert back.shapes == scores.shapes
    for site in scores.sites:
        assert torch.equal(back.values[site], scores.values[site])
    again = tmp_path / "again.json"
    back.to_culnig_json(again)
    assert again.read_text() == (tmp_path / "blend_max_scores.json").read_text()


def test_a_file_of_scores_has_the_authors_layout(model, tmp_path):
    """Sums by country under each key, N(D) ids, four spaces a level as json.dump(indent=4)."""
    scores = scores_of(model, ["attn.hook_k"])
    scores.to_culnig_json(tmp_path / "scores.json", dataset="blendcontrol")
    text = (tmp_path / "scores.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert text == json.dumps(content, indent=4, ensure_ascii=False) + "\n"
    assert list(content) == ["neuron_scores", "total_probabilities_per_country", "dataset_ids"]
    assert len(content["dataset_ids"]["blendcontrol"]) == 7
    assert len(content["neuron_scores"]) == 3 * 16
    value = float(scores.values["attn.hook_k"][1, 2, 9])
    assert content["neuron_scores"]["self_attn.k_proj_2_9"]["Türkiye"] == pytest.approx(7 * value)


def test_the_authors_scores_are_selected_from_as_their_code_does(model, tmp_path):
    """Ranked by sum / N(D) of the cultural file less sum / N(D) of the control file."""
    paths = [tmp_path / f"{name}_max_scores.json" for name in ("blend", "blendcontrol")]
    for seed, path in enumerate(paths):
        scores_of(model, ct.PAPER_SITES, seed).to_culnig_json(path, dataset=path.name.split("_")[0])
    cultural, control = (NeuronScores.from_culnig_json(path, model) for path in paths)
    assert control.source["clamp"]
    general = ct.culture_general(cultural, control, mlp_top=0.05, attention_top=0.02)
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    pools = {"mlp.gate_proj": 0.05, "self_attn": 0.02}
    for pool, share in pools.items():
        rank = {
            key: sum(values.values()) / 7 - sum(contents[1]["neuron_scores"][key].values()) / 7
            for key, values in contents[0]["neuron_scores"].items()
            if key.startswith(pool)
        }
        best = sorted(rank, key=lambda key: -rank[key])[: int(len(rank) * share)]
        mine = [
            f"self_attn.{site[-1]}_proj_{layer}_{k}" if "attn" in site else f"{pool}_{layer}_{k}"
            for site, layer, k in general
            if ("attn" in site) == (pool == "self_attn")
        ]
        assert set(mine) == set(best)


def test_scores_of_fused_layers_are_taken_apart(model, tmp_path):
    neurons = {
        f"self_attn.qkv_proj_{layer}_{k}": {"Iran": float(layer * 100 + k)}
        for layer in range(3)
        for k in range(64)
    }
    content = {"neuron_scores": neurons, "dataset_ids": {"blend": ["q1", "q2", "q1"]}}
    (tmp_path / "fused.json").write_text(json.dumps(content))
    found = NeuronScores.from_culnig_json(tmp_path / "fused.json", model)
    assert found.shapes == {s: site_shape(model, s) for s in ct.PAPER_SITES[1:]}
    assert found.n_questions == 2
    assert found.values["attn.hook_q"][0, 1, 31] == 131 / 2
    assert found.values["attn.hook_k"][0, 1, 0] == 132 / 2
    assert found.values["attn.hook_v"][0, 2, 15] == 263 / 2


ENTRY = {"module_name": "mlp.gate_proj", "layer_idx": 0, "neuron_idx": 5, "attribute_score": 0.5}


def scores_file(sums, ids=None):
    """What a file of the authors' scores holds, of one neuron."""
    return {"neuron_scores": {"mlp.up_proj_0_0": sums}, "dataset_ids": ids or {"b": ["q"]}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"neurons": []}, "no list 'top_neurons'"),
        ("text", "no list 'top_neurons'"),
        (["mlp.gate_proj"], "is no neuron"),
        ([3], "is no neuron"),
        ([{"module_name": "mlp.gate_proj", "layer_idx": 0}], "is no neuron"),
        (["mlp.gate_proj_3_0"], "no neuron of this model"),
        (["mlp.gate_proj_0_64"], "no neuron of this model"),
        (["self_attn.qkv_proj_0_64"], "no neuron of this model"),
        (["mlp.down_proj_0_0"], "no neuron of this model"),
        ([ENTRY | {"layer_idx": -1}], "is no neuron"),
        ([ENTRY | {"neuron_idx": "5"}], "is no neuron"),
        ([ENTRY | {"neuron_idx": 5.7}], "is no neuron"),
        ([ENTRY | {"layer_idx": True}], "is no neuron"),
        ([ENTRY | {"layer_idx": None}], "is no neuron"),
        ([ENTRY | {"module_name": ["mlp.gate_proj"]}], "is no neuron"),
        ([ENTRY | {"attribute_score": float("nan")}], "is no neuron"),
        ([ENTRY | {"attribute_score": float("inf")}], "is no neuron"),
        ([ENTRY | {"attribute_score": "0.5"}], "is no neuron"),
        ([ENTRY | {"attribute_score": 10**400}], "is no neuron"),
        (["mlp.gate_proj_0_٣"], "is no neuron"),
        (["mlp.gate_proj_0_5", ENTRY], "lists mlp.gate_proj_0_5 twice"),
        (["mlp.gate_up_proj_0_5", ENTRY], "lists mlp.gate_proj_0_5 twice"),
        ({"top_neurons": [ENTRY], "model_name": 5}, "a model_name that is no text"),
        ({"top_neurons": [ENTRY], "dataset_ids": {"blend": "q1"}}, "dataset_ids that are no"),
        ({"top_neurons": [ENTRY], "dataset_ids": ["q1"]}, "dataset_ids that are no"),
        ({"top_neurons": {"0": ENTRY}}, "no list 'top_neurons'"),
    ],
)
@pytest.mark.usefixtures("as_for_a_user")
def test_a_list_that_cannot_be_used_is_a_sentence(model, tmp_path, content, said):
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInputError, match=said):
        NeuronSet.from_culnig_json(tmp_path / "list.json", model)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "holds no scores"),
        ([], "holds no scores"),
        ({"neuron_scores": {}, "dataset_ids": {"blend": ["q"]}}, "holds no scores"),
        ({"neuron_scores": {"mlp.up_proj_0_0": {"A": 1.0}}, "dataset_ids": {}}, "holds no scores"),
        ({"neuron_scores": {"k": 1.0}, "dataset_ids": {"blend": ["q"]}}, "holds no scores"),
        ({"neuron_scores": {"x": {"A": 1.0}}, "dataset_ids": {"b": ["q"]}}, "is no neuron"),
        (
            {"neuron_scores": {"mlp.up_proj_0_0": {"A": 1.0}}, "dataset_ids": {"b": ["q"]}},
            "lacks 191 of the 192",
        ),
        (
            {
                "neuron_scores": {
                    "mlp.up_proj_0_0": {"A": 1.0},
                    "mlp.up_proj_0_1": {"B": 1.0},
                },
                "dataset_ids": {"b": ["q"]},
            },
            "the same ones",
        ),
        (scores_file({"A": float("nan")}), "sum that is no finite number for mlp.up_proj_0_0"),
        (scores_file({"A": float("-inf")}), "sum that is no finite number for mlp.up_proj_0_0"),
        (scores_file({"A": True}), "holds no scores"),
        (scores_file({"A": "1.0"}), "holds no scores"),
        (scores_file({"A": 10**400}), "holds no scores"),
        (scores_file({}), "holds no scores"),
        (scores_file(1.0), "holds no scores"),
        (scores_file({"A": 1.0}, ids={"b": "q1"}), "holds no scores"),
        (scores_file({"A": 1.0}, ids={"b": [1]}), "holds no scores"),
        (scores_file({"A": 1.0}, ids={"b": []}), "holds no scores"),
        (scores_file({"A": 1.0}, ids=["q1"]), "holds no scores"),
        ({"neuron_scores": {"k1": 1.0, "k2": 2.0}, "dataset_ids": {"b": ["q"]}}, "holds no scores"),
        (
            {
                "neuron_scores": {"mlp.up_proj_0_0": {"A": 1.0}, "mlp.gate_up_proj_0_64": {"A": 2}},
                "dataset_ids": {"b": ["q"]},
            },
            "sums twice for mlp.gate_up_proj_0_64",
        ),
    ],
)
def test_scores_that_cannot_be_used_are_a_sentence(model, tmp_path, content, said):
    (tmp_path / "scores.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInputError, match=said):
        NeuronScores.from_culnig_json(tmp_path / "scores.json", model)


def test_a_country_or_a_neuron_that_stands_twice_is_refused(model, tmp_path):
    """JSON would let the second win."""
    for neuron in ('{"A": 1.0, "A": 2.0}', '{"A": 1.0}, "mlp.up_proj_0_0": {"A": 2.0}'):
        text = (
            f'{{"neuron_scores": {{"mlp.up_proj_0_0": {neuron}}}, "dataset_ids": {{"b": ["q"]}}}}'
        )
        (tmp_path / "scores.json").write_text(text)
        with pytest.raises(InvalidInputError, match="holds no scores"):
            NeuronScores.from_culnig_json(tmp_path / "scores.json", model)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff\xfe\x00", b"{", b"nul"])
def test_what_is_no_json_is_a_sentence(model, tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    for read in (NeuronSet.from_culnig_json, NeuronScores.from_culnig_json):
        with pytest.raises(InvalidInputError, match=r"is not JSON|holds no scores"):
            read(tmp_path / "x.json", model)


def test_missing_files_unknown_sites_and_wrong_ids_are_sentences(model, tmp_path):
    for read in (NeuronSet.from_culnig_json, NeuronScores.from_culnig_json):
        with pytest.raises(MissingFileError, match="There is no file"):
            read(tmp_path / "none.json", model)
    with pytest.raises(InvalidInputError, match=r"no name for hook_resid_pre"):
        NeuronSet.of({"hook_resid_pre": [(0, 0)]}).to_culnig_json(tmp_path / "x.json")
    both = scores_of(model, ["mlp.hook_post", "mlp.hook_pre_linear"])
    with pytest.raises(InvalidInputError, match="leave one of them out"):
        both.to_culnig_json(tmp_path / "x.json")
    with pytest.raises(InvalidInputError, match="2 distinct ids for scores of 7"):
        scores_of(model, ["attn.hook_q"]).to_culnig_json(tmp_path / "x.json", ids=["a", "b", "a"])
    assert list(tmp_path.iterdir()) == []
