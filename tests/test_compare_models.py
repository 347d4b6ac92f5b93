"""Checkpoints of one model side by side, against what is measured of each alone."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import culnig_tl as ct
from culnig_tl.neurons import NeuronSet
from culnig_tl.validation.overlap import shared_by_chance

ASSETS = Path(ct.__file__).parent / "atlas" / "assets"


@pytest.fixture(scope="module")
def rows():
    return {
        "cultural": ct.load_benchmark("atlas", split="identify", limit=32),
        "control": ct.load_benchmark("atlas-control", split="identify", limit=32),
    }


@pytest.fixture(scope="module")
def compared(rows):
    return ct.compare_models(
        {"planted": "atlas", "again": ct.load_model(), "twin": "atlas-natural"},
        **rows,
        progress=False,
    )


def scored(name, rows):
    model = ct.load_model(name)
    return [
        ct.attribute(model, rows[role], clamp=role == "control", progress=False)
        for role in ("cultural", "control")
    ]


def test_each_set_is_the_one_that_the_model_alone_gives(compared, rows) -> None:
    assert compared.sets["twin"] == ct.culture_general(*scored("atlas-natural", rows))
    answers = ct.evaluate(ct.load_model("atlas-natural"), rows["cultural"], progress=False)
    (twin,) = compared.models[compared.models["model"] == "twin"].to_dict("records")
    assert twin["accuracy"] == pytest.approx(100 * answers["correct"].mean())
    assert twin["neurons"] == len(compared.sets["twin"])


def test_a_model_beside_itself_has_drifted_nowhere(compared) -> None:
    (same,) = compared.pairs[compared.pairs["second"] == "again"].to_dict("records")
    assert same["jaccard"] == 1.0
    assert same["p_value"] < 1e-10
    assert same["drift_mlp"] == pytest.approx(0, abs=1e-9)
    assert same["drift_attention"] == pytest.approx(0, abs=1e-9)


def test_drift_is_one_minus_the_correlation_of_ranks(compared, rows) -> None:
    tables = []
    for name in ("atlas", "atlas-natural"):
        cultural, control = scored(name, rows)
        tables.append((cultural.total("mlp.hook_post") - control.total("mlp.hook_post")).flatten())
    ranks = [np.argsort(np.argsort(table.numpy(), kind="stable")) for table in tables]
    assert compared.pairs[["first", "second"]].values.tolist()[1] == ["planted", "twin"]
    expected = 1 - pd.Series(ranks[0]).corr(pd.Series(ranks[1]))
    assert compared.pairs["drift_mlp"].tolist()[1] == pytest.approx(expected, abs=1e-4)


def test_a_control_above_the_questions_is_named_with_its_model(rows) -> None:
    swapped = {"cultural": rows["control"], "control": rows["cultural"]}
    with pytest.warns(UserWarning, match="control scores higher"):
        alarmed = ct.compare_models({"a": "atlas", "b": "atlas"}, **swapped, progress=False)
    assert (alarmed.models["control"] > 1).all()
    assert alarmed.models["warning"].str.contains("control scores higher").all()


def test_the_figure_has_a_matrix_and_a_band_per_set(compared) -> None:
    figure = compared.figure()
    kinds = [trace.type for trace in figure.data]
    assert kinds.count("heatmap") == 1
    bands = [trace for trace in figure.data if trace.type == "scatter" and trace.fill == "toself"]
    assert len(bands) == 3
    assert len({band.fillcolor for band in bands}) == 3


@pytest.mark.parametrize("models", [{}, {"one": "atlas"}])
def test_one_model_is_no_comparison(models, rows) -> None:
    with pytest.raises(ct.CulnigError, match="give at least two by name"):
        ct.compare_models(models, **rows)


def test_models_of_other_shapes_are_refused(rows, tmp_path) -> None:
    config = AutoConfig.from_pretrained(ASSETS)
    config.num_hidden_layers = 1
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(ASSETS).save_pretrained(tmp_path)
    with pytest.raises(ct.CulnigError, match="checkpoints of one model"):
        ct.compare_models({"a": "atlas", "b": tmp_path}, **rows, progress=False)


def test_random_sets_share_what_chance_gives() -> None:
    """The p-value of sets drawn at random is not small more often than it says."""
    shuffled = partial(torch.randperm, 60, generator=torch.Generator().manual_seed(0))
    small = 0
    for _ in range(200):
        drawn = [
            NeuronSet.of(
                {"mlp.hook_post": [(0, i) for i in shuffled()[:9].tolist()]},
                shapes={"mlp.hook_post": (1, 60)},
            )
            for _ in range(2)
        ]
        small += shared_by_chance(*drawn)[1] <= 0.05
    assert small <= 200 * 0.05 + 3 * np.sqrt(200 * 0.05 * 0.95)
