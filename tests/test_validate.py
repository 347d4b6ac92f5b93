"""Everything at once: the tables of a folder, its page, and the command."""

import json
from functools import partial
from html import unescape

import pandas as pd
import pytest
from browser import opened
from typer.testing import CliRunner

import culnig_tl as ct
from culnig_tl.cli import app
from culnig_tl.errors import CulnigError
from culnig_tl.neurons import NeuronSet
from culnig_tl.report import write_validation
from culnig_tl.validation import Scorer, validate

pytestmark = pytest.mark.filterwarnings("ignore:The control scores higher")
TABLES = ("league", "selectivity", "faithfulness", "areas", "membership")
OPTIONS = {
    "scorers": (Scorer(), Scorer(pool="sum", weight="none")),
    "draws": 4,
    "n_random": 1,
    "progress": False,
}


@pytest.fixture(scope="module")
def rows():
    draw = ct.load_benchmark
    data = {
        "cultural": draw("atlas", split="identify", limit=32),
        "control": draw("atlas-control", split="identify", limit=32),
        "recognition": draw("atlas-countries", split="identify", limit=32),
    }
    tests = {
        "culture": draw("atlas", split="test", limit=8),
        "general": draw("atlas-ordering", split="test", limit=8),
    }
    return data, tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("validation")


@pytest.fixture(scope="module")
def held(rows, folder):
    return validate(ct.load_model(), *rows, out=folder, **OPTIONS)


def test_the_folder_has_the_tables_that_are_returned(held, folder):
    assert {path.stem for path in folder.glob("*.csv")} == set(TABLES)
    league = pd.read_csv(folder / "league.csv")
    assert league["spearman"].to_numpy() == pytest.approx(held.league.frame["spearman"].to_numpy())
    assert list(held.faithfulness.areas["ranking"].unique()) == ["cultural", "published"]
    core = NeuronSet.load(folder / "core.json")
    assert core == held.membership.core()
    assert len(core) > 0


def test_membership_is_that_of_the_call(held, rows):
    data, _ = rows
    expected = ct.membership(
        ct.load_model(),
        *data.values(),
        select=lambda *roles, **by_role: ct.culture_general(*roles, **by_role, attention_top=0.0),
        draws=4,
        sites=("mlp.hook_post",),
        progress=False,
    )
    pd.testing.assert_frame_equal(held.membership.frame, expected.frame)
    assert set(held.membership.neurons) == set(expected.neurons)


def test_a_second_call_reads_what_is_there(held, rows, folder):
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    again = validate(ct.load_model(), *rows, out=folder, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == files
    pd.testing.assert_frame_equal(again.faithfulness.areas, held.faithfulness.areas)


def test_the_page_says_what_the_tables_say(held, tmp_path):
    page = write_validation(held, tmp_path / "page.html", model_name="<b>mine").read_text()
    assert "&lt;b&gt;mine" in page
    assert "<b>mine" not in page
    n_core, n_all = len(held.membership.core()), len(held.membership.neurons)
    assert f"{n_core} of the {n_all} neurons" in page
    for recipe, rows in held.league.frame.groupby("recipe"):
        assert page.count(f"<td>{recipe}</td>") == len(rows)
    for benchmark, rows in held.faithfulness.areas.groupby("benchmark"):
        assert page.count(f"<td>{benchmark}</td>") == len(rows)
    row = held.league.frame.iloc[0]
    assert f"{row['spearman']:.2f}".lstrip("-") in page
    header = page[page.index("<header>") : page.index("</header>")]
    best = held.league.frame.set_index(["scorer", "recipe"])["selectivity"].idxmax()
    assert f"{best[0]} ({best[1]}) is the most selective" in unescape(header)
    assert f"{n_core} of the {n_all} neurons" in header


@pytest.mark.browser
def test_a_browser_draws_the_page(held, tmp_path):
    with opened(write_validation(held, tmp_path / "page.html", model_name="mine")) as page:
        page.locator(".js-plotly-plot").nth(1).wait_for()


def test_the_command_writes_page_and_tables(tmp_path, monkeypatch, rows):
    few = partial(validate, scorers=OPTIONS["scorers"])
    monkeypatch.setattr("culnig_tl.cli.validation.validated", few)
    data, tests = rows
    arguments = ["validate", "atlas", "--out", str(tmp_path / "out"), "--draws", "2", "--quiet"]
    for role, each in data.items():
        each.to_json(tmp_path / f"{role}.jsonl")
        arguments += [f"--{role}", str(tmp_path / f"{role}.jsonl")]
    for name, each in tests.items():
        each.to_json(tmp_path / f"{name}.jsonl")
        arguments += ["--benchmark", f"{name}={tmp_path / f'{name}.jsonl'}"]
    result = CliRunner().invoke(app, [*arguments, "--n-random", "1", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "at least 90 % of 2 resamples" in " ".join(result.output.split())
    assert (tmp_path / "out" / "validation.html").exists()
    assert json.loads((tmp_path / "out" / "core.json").read_text())


@pytest.mark.parametrize(("name", "value"), [("draws", 0), ("n_random", 0), ("seed", -1)])
def test_numbers_out_of_range_are_refused(rows, tmp_path, name, value):
    with pytest.raises(CulnigError, match=name):
        validate(ct.load_model(), *rows, out=tmp_path / "out", **{**OPTIONS, name: value})
    assert not (tmp_path / "out").exists()
