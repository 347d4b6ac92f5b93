"""The paper's table as text, and its own figures in the columns of one's own."""

import numpy as np
import pandas as pd
import pytest

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.evaluation.summary import COLUMNS


@pytest.fixture
def table() -> pd.DataFrame:
    """Two benchmarks, the second measured by alignment; general beats random on the first only."""
    row = dict.fromkeys(COLUMNS, np.nan) | {"factor": 0.0, "measure": "accuracy"}
    return pd.DataFrame(
        [
            row | {"benchmark": "a_b", "condition": "original", "n_neurons": 0, "accuracy": 64.2},
            row
            | {"benchmark": "a_b", "condition": "general ×2", "n_neurons": 8087}
            | {"accuracy": 37.931, "change": -26.269, "p_value": 0.049},
            row
            | {"benchmark": "w|v", "condition": "general ×2", "n_neurons": 8087}
            | {"accuracy": 58.5, "change": 0.5, "p_value": 0.05, "measure": "alignment"},
        ]
    )


def test_a_cell_has_measure_star_and_change(table):
    wide = ct.paper_table(table)
    assert list(wide.columns) == ["condition", "neurons", "a_b", "w|v"]
    assert wide.to_numpy().tolist() == [
        ["original", "0", "64.20", ""],
        ["general ×2", "8,087", "37.93* (-26.27)", "58.50 (+0.50)"],
    ]
    assert ct.paper_table(table, digits=1)["a_b"][1] == "37.9* (-26.3)"


def test_markdown_has_a_line_a_condition_and_a_note(table):
    lines = ct.to_markdown(table).splitlines()
    assert lines[0] == "| condition | neurons | a_b | w\\|v |"
    assert lines[1] == "| --- | ---: | ---: | ---: |"
    assert lines[3] == "| general ×2 | 8,087 | 37.93* (-26.27) | 58.50 (+0.50) |"
    assert r"alignment for w\|v" in lines[-1]
    assert "p < 0.05" in lines[-1]


def test_latex_is_escaped_and_complete(table):
    text = ct.to_latex(table, label="tab:mine")
    for expected in (
        r"\begin{tabular}{lrrr}",
        r"condition & neurons & a\_b & w|v \\",
        r"general $\times$2 & 8,087 & 37.93* (-26.27) & 58.50 (+0.50) \\",
        r"\label{tab:mine}",
        r"Accuracy in \% (alignment",
    ):
        assert expected in text


def test_another_frame_is_refused():
    with pytest.raises(InvalidInputError, match="no column factor, n_neurons, measure"):
        ct.paper_table(pd.DataFrame(columns=["benchmark", "condition", "accuracy", "change"]))


@pytest.mark.parametrize(
    ("model", "neurons", "first", "last", "n_conditions"),
    [
        ("google/gemma-3-12b-it", 8087, (64.22, 37.93), (78.04, 78.65), 3),
        ("qwen3-14b", 7340, (65.96, 35.84), (79.91, 78.70), 2),
        ("Llama-3.1-8B-Instruct", 4268, (60.18, 32.19), (73.93, 69.35), 2),
    ],
)
def test_published_rows_are_those_of_the_paper(model, neurons, first, last, n_conditions):
    found = ct.published(model)
    assert tuple(found.columns) == COLUMNS
    assert len(found) == 7 * n_conditions
    cells = found.set_index(["benchmark", "condition"])
    for benchmark, (before, after) in (("blend", first), ("mrpc", last)):
        assert cells.loc[(benchmark, "original (published)"), "accuracy"] == before
        assert cells.loc[(benchmark, "general (published)"), "accuracy"] == after
        change = cells.loc[(benchmark, "general (published)"), "change"]
        assert change == pytest.approx(after - before)
    assert set(found.loc[found["n_neurons"] > 0, "n_neurons"]) == {neurons}
    assert set(found.loc[found["measure"] == "alignment", "benchmark"]) == {"worldvaluesbench"}


def test_published_rows_stand_beside_ones_own(table):
    both = ct.published("gemma-3-12b-it", table)
    wide = ct.paper_table(both)
    assert wide["condition"].tolist()[:3] == ["original", "general ×2", "original (published)"]
    assert wide.columns.tolist()[2:5] == ["a_b", "w|v", "blend"]


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"'gpt2'.*gemma-3-12b-it, Qwen3-14B, Llama-3\.1"):
        ct.published("gpt2")


def test_a_rounded_table_has_no_p_value_of_zero() -> None:
    frame = pd.DataFrame(
        {"change": [-67.3611, 0.0], "p_value": [0.0005, 1.0], "p_sets": [0.1428, float("nan")]}
    )
    shown = ct.tables.rounded(frame)
    assert shown["change"].tolist() == [-67.361, 0.0]
    assert shown["p_value"].tolist() == ["< .001", "1.000"]
    assert shown["p_sets"].tolist() == [".143", ""]
    assert ct.tables.rounded(frame, digits=4)["p_value"][0] == ".0005"
    assert frame["p_value"][0] == 0.0005, "the table itself stays"
    with pytest.raises(InvalidInputError, match="digits is 0; give a whole number between 1"):
        ct.tables.rounded(frame, digits=0)
