"""Names out of colleagues' files in tables, csv files and pages: printed, never obeyed."""

import csv
import re
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

import culnig_tl as ct
from culnig_tl import html
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation.summary import COLUMNS
from culnig_tl.files import csv_text, write_csv

FORMULAS = ("=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1")
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}",
    "%{customdata}",
    "javascript:alert(1)",
    "--></style><b>",
)


def table(benchmark: str, condition: str = "general", measure: str = "accuracy") -> pd.DataFrame:
    """The tidy table of one benchmark and two conditions."""
    row = dict.fromkeys(COLUMNS, np.nan) | {"factor": 0.0, "measure": measure}
    before = {"benchmark": benchmark, "condition": "original", "n_neurons": 0, "accuracy": 64.2}
    after = {"benchmark": benchmark, "condition": condition, "n_neurons": 7, "accuracy": 60.0}
    return pd.DataFrame([row | before, row | after | {"change": -4.2, "p_value": 0.01}])


# ---------------------------------------------------------------- LaTeX


def test_latex_has_all_ten_specials_escaped_in_header_cell_and_caption():
    name = r"& % $ # _ { } ~ ^ \input"
    text = ct.to_latex(table(name, condition=f"x {name}", measure=name))
    escaped = r"\& \% \$ \# \_ \{ \} \textasciitilde{} \textasciicircum{} \textbackslash{}input"
    assert f"condition & neurons & {escaped} \\\\" in text
    assert f"x {escaped} & 7 &" in text
    assert f"({escaped} for {escaped})" in text
    assert "\\input" not in text


@given(name=st.text(st.characters(codec="utf-8"), min_size=1))
def test_latex_reads_a_name_as_text_only(name):
    line = ct.to_latex(table(f"a{name}z")).splitlines()[5]
    cell = line.removeprefix("condition & neurons & ").removesuffix(r" \\")
    assert cell.startswith("a")
    assert cell.endswith("z")
    known = r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\$\\times\$"
    rest = re.sub(rf"{known}|\\[&%$#_{{}}]", "", cell)
    assert not set(rest) & set("&%$#_{}~^\\\n\r")


@pytest.mark.parametrize("name", ["[2cm]", "*", "* [2cm] x"])
def test_latex_takes_no_cell_for_an_argument_of_the_line_before(name):
    """After ``\\\\`` a star or a bracket is read as its own, and the cell vanishes."""
    rows = ct.to_latex(table("b", condition=name)).splitlines()
    assert any(row.startswith(f"{{}}{name} & 7 &") for row in rows)


@pytest.mark.parametrize("label", ["", "a}b", "a\\b", "a%b", "a#b", "a\nb", "a~b"])
def test_a_label_that_latex_cannot_read_is_a_sentence(label):
    with pytest.raises(InvalidInputError, match=r"label is .*letters, digits"):
        ct.to_latex(table("b"), label=label)


# ---------------------------------------------------------------- Markdown


def test_markdown_has_tables_code_links_and_html_escaped():
    name = "a|b `c` <img src=x> & [d](javascript:e)\n| f \\"
    text = ct.to_markdown(table(name, measure=name))
    escaped = r"a\|b \`c\` &lt;img src=x> &amp; [d]\(javascript:e) \| f \\"
    lines = text.splitlines()
    assert lines[0] == f"| condition | neurons | {escaped} |"
    assert lines[1] == "| --- | ---: | ---: |"
    assert len(lines) == 6
    assert lines[5].startswith(f"Accuracy in % ({escaped} for {escaped}); in brackets")
    assert "p < 0.05" in lines[5]


@given(name=st.text(st.characters(codec="utf-8"), min_size=1))
def test_markdown_has_as_many_cells_as_columns(name):
    lines = ct.to_markdown(table(name, condition=f"x{name}")).split("\n")
    bars = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines[:4]]
    assert bars == [4] * 4
    assert not re.search(r"<[^ ]", "".join(lines))


# ---------------------------------------------------------------- csv


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_text_that_a_spreadsheet_would_run_becomes_text(formula, tmp_path):
    frame = pd.DataFrame({"culture": [formula, "Iran"], formula: ["a=b", "a-b"], "p": [-1.5, 2.0]})
    write_csv(tmp_path / "table.csv", frame)
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["culture", f"'{formula}", "p"],
        [f"'{formula}", "a=b", "-1.5"],
        ["Iran", "a-b", "2.0"],
    ]


def test_numbers_stay_numbers():
    frame = pd.DataFrame(
        {
            "float": np.array([-0.1, np.nan], dtype=np.float32),
            "int": [-3, 4],
            "bool": [True, False],
            "either": [-5, "-5"],
            "kind": pd.Categorical(["-x", "y"]),
        }
    )
    assert csv_text(frame) == "float,int,bool,either,kind\n-0.1,-3,True,-5,'-x\n,4,False,'-5,y\n"
    assert frame["either"].tolist() == [-5, "-5"]


def test_a_table_of_results_reads_back_as_it_was():
    results = table("culture")
    read = pd.read_csv(StringIO(csv_text(results)))
    pd.testing.assert_frame_equal(read, results, check_dtype=False)
    assert csv_text(results) == results.to_csv(index=False)


# ---------------------------------------------------------------- pages


class Elements(HTMLParser):
    """Every element and attribute of a page, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def pieces(name: str) -> dict[str, str]:
    """What pages are made of, with a name wherever one can stand."""
    plot = go.Figure(go.Bar(x=[name], y=[1], name=name, hovertemplate=name))
    neurons = ct.NeuronSet.of("L0.mlp.hook_post.1", source={"model_name": name, "culture": name})
    frame = pd.DataFrame({name: [name], "n": [1]})
    return {
        "section": html.section(name, html.paragraph(name)),
        "code": html.code(name),
        "table": html.table((name, "n"), [(name, html.Link(name, name))], caption=name),
        "described": html.described_table(name, frame),
        "figure": html.figure(plot, name=name, label=name, caption=name),
        "tokens": html.ColouredTokens((name,), (1.0,), unit=name)._repr_html_(),
        "neurons": neurons._repr_html_(),
        "view": html.circuitsvis.colored_tokens([name], [1.0]).source,
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_adds_no_element_and_no_attribute_to_a_page(name):
    harmless = {piece: Elements(source) for piece, source in pieces("Iran").items()}
    for piece, source in pieces(name).items():
        page = Elements(source)
        assert page.names == harmless[piece].names, piece
        assert page.attributes == harmless[piece].attributes, piece


@pytest.mark.parametrize("name", HOSTILE)
def test_a_title_adds_nothing_either(name, tmp_path):
    path = html.write_page(tmp_path / "page.html", title=name, body=html.paragraph(name))
    page = Elements(path.read_text(encoding="utf-8"))
    assert page.names == ["html", "head", "meta", "meta", "meta", "title", "style", "body", "p"]
    assert page.text.count(name) == 2
    assert "script-src" not in path.read_text(encoding="utf-8")
