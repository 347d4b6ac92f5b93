"""The page of a run: complete, self-contained, escaped, and drawn by a real browser."""

import inspect
import json
import re
from dataclasses import replace
from functools import partial
from html import unescape
from html.parser import HTMLParser

import browser
import pandas as pd
import pytest
import torch

from culnig_tl.atlas import answer_key
from culnig_tl.benchmarks import load_benchmark
from culnig_tl.errors import InvalidInputError, UnwritableError
from culnig_tl.finetuning import FineTuningStudy
from culnig_tl.html import fall, number, opening, plotly_script, table
from culnig_tl.inspection import generate, inspect_neurons
from culnig_tl.models import load_model
from culnig_tl.models.pretrained import PRETRAINED
from culnig_tl.neurons import NeuronSet
from culnig_tl.pipeline import Run, culnig, settings
from culnig_tl.report import text_sections, write_report
from culnig_tl.report.selectivity import measure_selectivity
from culnig_tl.report.summary import model_name, three_answers
from culnig_tl.scores import NeuronScores

ODD = "<b>Ü & </script>"
CULTURES = (ODD, "Iran", "Azerbaijan")
SITES = ("mlp.hook_post", "attn.hook_q")
VOID = {"meta", "br", "hr", "img", "link", "input"}

# the scores of these runs are drawn at random
pytestmark = pytest.mark.filterwarnings("ignore:The control scores higher")


class Page(HTMLParser):
    """Tags with their attributes, text without scripts and styles, and whether tags are closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.unmatched: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unmatched.append(tag)

    def handle_endtag(self, tag):
        assert self.unmatched.pop() == tag

    def handle_data(self, data):
        if self.unmatched and self.unmatched[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def run(tmp_path) -> Run:
    generator = torch.Generator().manual_seed(0)
    shapes = {"mlp.hook_post": (4, 512), "attn.hook_q": (4, 128)}

    def scores() -> NeuronScores:
        values = {
            site: torch.rand(len(CULTURES), *shape, generator=generator)
            for site, shape in shapes.items()
        }
        source = {"method": "gradient_x_activation", "pool": "max", "sites": list(SITES)}
        return NeuronScores(values, CULTURES, 12, (4, 4, 4), source)

    found = [(layer, neuron) for layer in range(4) for neuron in range(7, 400, 50)]
    general = NeuronSet.of(
        {"mlp.hook_post": found},
        scores={("mlp.hook_post", *neuron): 0.01 * i for i, neuron in enumerate(found)},
        shapes=shapes,
        source={"kind": "culture-general"},
    )
    effects = pd.DataFrame(
        [(a, b, -30.0 if a == b else 1.5, -0.25, 9, 36) for a in CULTURES for b in CULTURES],
        columns=["masked", "tested", "change", "probability_change", "n_neurons", "n_prompts"],
    )
    settings = {
        "sites": list(SITES),
        "general": {"mlp_top": 0.01, "attention_top": 0.002},
        "specific": {"top": 0.003, "min_z": 0.5},
        "recognition_top": 0.01,
        "factor": 0.0,
        "more_factors": [],
        "n_random": 3,
        "n_layer_matched": 0,
        "mode": "argmax",
        "model": {"name": f"org/{ODD}", "fingerprint": "0123456789ab"},
        "dtype": "float32",
        "data": {"cultural": "aaaaaaaaaaaa"},
        "benchmarks": {"culture": "bbbbbbbbbbbb", ODD: "cccccccccccc"},
        "culture_test": "bbbbbbbbbbbb",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    }
    return Run(
        out=tmp_path,
        settings=settings,
        scores={name: scores() for name in ("cultural", "control", "recognition")},
        general=general,
        specific={c: NeuronSet.of({"mlp.hook_post": [(0, i)]}) for i, c in enumerate(CULTURES)},
        answers=pd.DataFrame(),
        table=results(),
        effects=effects,
    )


def results() -> pd.DataFrame:
    nan = float("nan")
    columns = (
        "benchmark condition n_neurons n_questions accuracy accuracy_low accuracy_high "
        "accuracy_sd_of_draws probability probability_low probability_high change p_value"
    )
    table = pd.DataFrame(
        [
            ("culture", "original", 0, 1288, 95.1, 93.2, 96.3, nan, 0.911, 0.902, 0.923, 0.0, nan),
            (
                "culture",
                "general",
                32,
                1288,
                54.4,
                51.5,
                57.6,
                nan,
                0.434,
                0.425,
                0.446,
                -40.7,
                5e-4,
            ),
            ("culture", "random", 32, 1288, 94.7, 91.8, 96.9, 0.8, 0.897, 0.878, 0.909, -0.4, nan),
            (ODD, "original", 0, 76, 88.1, 80.2, 91.3, nan, 0.811, 0.802, 0.823, 0.0, nan),
            (ODD, "general", 32, 76, 86.4, 79.5, 90.6, nan, 0.834, 0.825, 0.846, -1.7, 0.2114),
            (ODD, "random", 32, 76, 87.7, 81.8, 92.9, 1.6, 0.797, 0.778, 0.809, -0.6, nan),
        ],
        columns=columns.split(),
    )
    return table.assign(factor=(table["condition"] == "original").astype(float))


@pytest.fixture
def embedded(run) -> Run:
    return replace(
        run, settings={**run.settings, "model": {"name": "atlas", "fingerprint": "f" * 12}}
    )


ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")
WHOLE = ("L0.mlp.hook_post.57", "L2.mlp.hook_post.7")


@pytest.fixture
def looked_at(run, model, rows) -> Run:
    """The run with whole cards of two of its neurons, with doses and with replies."""
    two = NeuronSet.of({"mlp.hook_post": [(0, 57), (2, 7)]})
    doses = pd.DataFrame(
        [
            (benchmark, "neurons", factor, 32, 64, 50.0 + 9 * factor, 40.0, 90.0)
            for benchmark in ("culture", ODD)
            for factor in (0.0, 1.0, 2.0)
        ],
        columns=["benchmark", "condition", "factor", "n_neurons", "n_questions", *ACCURACY],
    )
    replies = generate(model, ["Which drink?", ODD], two, max_new_tokens=4)
    return replace(run, cards=inspect_neurons(model, rows, two), doses=doses, replies=replies)


def source_of(run: Run) -> str:
    return write_report(run, run.out / "report.html").read_text(encoding="utf-8")


def page_of(run: Run) -> Page:
    return Page(source_of(run).replace(plotly_script(), ""))


# --- the file -------------------------------------------------------------------------------------


def test_the_page_is_one_file_written_whole(run):
    path = write_report(run, run.out / "new" / "report.html")
    assert path.stat().st_size < 2_500_000
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_the_page_needs_nothing_from_elsewhere(run):
    source = source_of(run)
    assert source.count(plotly_script()) == 1
    own = source.replace(plotly_script(), "")
    assert not re.search(r"https?://|@import|url\(", own)
    page = Page(own)
    assert not page.all("link")
    assert not any("src" in script for script in page.all("script"))
    assert not any("src" in attributes for _, attributes in page.tags)
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))
    policy = page.all("meta")[2]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert str(policy["content"]).startswith("default-src 'none'")


def test_an_unwritable_place_is_one_sentence_and_leaves_nothing(run):
    (run.out / "file").write_text("in the way")
    with pytest.raises(UnwritableError, match="cannot be written"):
        write_report(run, run.out / "file" / "report.html")
    assert [path.name for path in run.out.iterdir()] == ["file"]


# --- what it says ---------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_titled(run):
    page = page_of(run)
    assert page.unmatched == []
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert f"Culture neurons of org/{ODD}" in page.text


def test_names_are_shown_as_they_are(run):
    source = source_of(run).replace(plotly_script(), "")
    assert "<b>" not in source
    assert source.count("</script>") == source.count("<script>") == 13
    assert Page(source).text.count(ODD) >= 5


def test_cards_and_doses_add_one_figure_and_no_script_of_their_own(looked_at):
    source = source_of(looked_at).replace(plotly_script(), "")
    assert source.count("</script>") == source.count("<script>") == 14
    page = Page(source)
    assert page.unmatched == []
    ids = [str(tag["id"]) for _, tag in page.tags if "id" in tag]
    assert len(set(ids)) == len(ids)
    (doses,) = (tag for tag in page.all("div") if tag.get("id") == "doses")
    assert f"{ODD}: 50.0 % at 0, 59.0 % at 1, 68.0 % at 2." in str(doses["aria-label"])


def test_every_number_of_the_table_is_on_the_page(run):
    text = page_of(run).text
    for row in run.table.to_dict("records"):
        accuracy = [row[f"accuracy{end}"] for end in ("", "_low", "_high")]
        probability = [row[f"probability{end}"] for end in ("", "_low", "_high")]
        assert "{:.1f} [{:.1f}, {:.1f}]".format(*accuracy) in text
        assert "{:.3f} [{:.3f}, {:.3f}]".format(*probability) in text
        assert number(row["change"], "+.1f") in text
        assert f"{row['benchmark']} ({row['n_questions']:,} questions)" in text
    for value in ("0.0005", "0.2114", "0.8", "1.6"):
        assert value in text


def first_screen(run: Run) -> str:
    """What stands above the contents: title, answers to three questions, warnings."""
    answers = opening("Neurons", three_answers(run, measure_selectivity(run)))
    return unescape(re.sub("<[^>]+>", "", answers + text_sections.warnings_note(run)))


def with_change(run: Run, benchmark: str, **values: float) -> Run:
    """The run with other numbers in one row of its table."""
    table = run.table.copy()
    row = (table["benchmark"] == benchmark) & (table["condition"] == "general")
    table.loc[row, list(values)] = list(values.values())
    return replace(run, table=table)


def test_the_first_screen_answers_three_questions_out_of_the_tables(run):
    text = first_screen(run)
    assert text.partition("What was found?")[2] in page_of(run).text
    assert (
        "What was found? 32 neurons (1.2 % of the 2,560 scored) that score highest on cultural "
        "questions, less their control: 32 at MLP output; most of them, 8, in layer 0."
    ) in text
    assert (
        "Is it cultural? Not measured, for want of general questions. Switching off them moves "
        "accuracy on “culture” from 95.1 to 54.4 %; among the other benchmarks, "
        f"“{ODD}” moves most, by \N{MINUS SIGN}1.7 points."
    ) in text
    assert (
        "Can it be believed? P(answer) on “culture” falls by 52 %, and with three random sets of "
        "the same size it falls by 2 %: whether that is more than chance was not measured. "
        "Accuracy goes from 95.1 to 54.4 %, with random neurons to 94.7 %: a clearer drop than "
        "random neurons cause (p = 0.0005).\n"
    ) in text


def test_a_rise_is_never_called_a_drop(run):
    assert "a drop no clearer than random neurons cause (p = 0.31)" in first_screen(
        with_change(run, "culture", p_value=0.31)
    )
    rise = first_screen(
        with_change(run, "culture", p_value=0.97, change=2.4, accuracy=97.5, probability=0.95)
    )
    assert "from 95.1 to 97.5 %, with random neurons to 94.7 %: no drop (p = 0.97)" in rise
    assert "P(answer) on “culture” rises by 4 %" in rise
    chance = first_screen(with_change(run, "culture", p_value=0.01, change=2.4))
    assert "no drop (p = 0.01)" in chance
    for each in (rise, chance):
        assert "a clearer drop" not in each


def test_where_accuracy_stays_the_other_benchmarks_probability_is_looked_at(run):
    still = with_change(run, ODD, change=0.0, probability=0.811 * 0.75)
    assert (
        "; on the other benchmarks accuracy stays, and P(answer) moves most on "
        f"“{ODD}”, where it falls by 25.0 %."
    ) in first_screen(still)
    nothing = with_change(run, ODD, change=0.0, probability=0.811)
    assert "neither accuracy nor P(answer) moves." in first_screen(nothing)


def test_the_first_screen_claims_nothing_that_was_not_measured(run):
    alone = run.table[run.table["condition"] != "random"].assign(p_value=float("nan"))
    assert "Random neurons were not tried" in first_screen(replace(run, table=alone))
    doubled = replace(run, settings={**run.settings, "factor": 2.0})
    assert "Multiplying by 2 the activations of them moves accuracy" in first_screen(doubled)
    warned = first_screen(replace(run, warnings=["too few", "too small"]))
    assert "Read the two warnings below first." in warned
    assert warned.index("Read the two") < warned.index("Warning: too few")
    assert "warning" not in first_screen(run)


def answers_with_general(general_loss: float) -> pd.DataFrame:
    """Answers to two cultural questions of 8 cultures each and to 16 general ones, by condition."""
    rows = [
        (benchmark, f"q{i}", culture, f"t{i}", condition, probability)
        for benchmark, cultures, loss in (("culture", CULTURES, 0.5), ("facts", [""], general_loss))
        for i in range(16)
        for culture in cultures
        for condition, probability in (("original", 0.8), ("general", 0.8 * (1 - loss)))
    ]
    columns = ["benchmark", "id", "culture", "topic", "condition", "probability"]
    frame = pd.DataFrame(rows, columns=columns)
    is_original = frame["condition"] == "original"
    return frame.assign(
        factor=is_original.astype(float), draw=0, n_neurons=32 * (~is_original).astype(int)
    )


@pytest.mark.parametrize(("general_loss", "points"), [(0.1, "40"), (0.75, "\N{MINUS SIGN}25")])
def test_selectivity_comes_first_where_it_was_measured(run, general_loss, points):
    """A loss of 50 % on cultural questions less that on general ones."""
    text = first_screen(replace(run, answers=answers_with_general(general_loss)))
    answer = text[text.index("Is it cultural?") : text.index("Can it be")]
    assert f"is {points} points [{points}, {points}] on “culture”. " in answer
    assert f"and by {100 * general_loss:.0f} % on general questions." in answer
    assert "accuracy" not in answer


def test_a_model_goes_by_its_own_name(run):
    def named(name: str) -> str:
        model = {**run.settings["model"], "name": name}
        return model_name(replace(run, settings={**run.settings, "model": model}))

    hub_name = PRETRAINED["smollm2"].hub_name.rpartition("/")[2]
    assert named("smollm2") == hub_name
    assert named("/models/sft-2") == "sft-2"


def test_several_factors_have_rows_and_names_of_their_own(run):
    """A condition is its name and its factor; the sentences are about the first factor."""
    scaled = run.table[run.table["condition"] != "original"]
    doubled = scaled.assign(factor=2.0, accuracy=scaled["accuracy"] - 20, change=-60.0)
    both = replace(run, table=pd.concat([run.table, doubled], ignore_index=True))
    page = page_of(both)
    assert "moves accuracy on “culture” from 95.1 to 54.4 %" in page.text
    assert f"“{ODD}” moves most, by \N{MINUS SIGN}1.7 points" in page.text
    for cell in ("general ×2", "random ×2", "34.4 [51.5, 57.6]"):
        assert page.text.count(cell) == page_of(run).text.count(cell) + (
            1 if cell.startswith("34") else 2
        )
    (bars,) = (tag for tag in page.all("div") if tag.get("id") == "comparison")
    assert "culture, general ×2: 34.4 %" in str(bars["aria-label"])


def test_a_page_has_one_way_to_print_a_number(looked_at):
    """Neither sentences nor tables nor cards have a zero with a sign."""
    tiny = replace(looked_at, table=looked_at.table.assign(change=-1e-9))
    assert not re.search("[+\N{MINUS SIGN}-]0(?:[.]0+)?(?![.\\d])", page_of(tiny).text)


def test_tables_of_neurons_layers_cultures_and_settings(run):
    text = page_of(run).text
    assert "The top 20 of 32 neurons" in text
    best = run.general.to_frame().iloc[0]
    score = run.scores["cultural"].total("mlp.hook_post")[best["layer"], best["neuron"]]
    assert f"{score:.3g}" in text
    assert "Culture-general neurons per layer" in text
    for setting in ("general.mlp_top", "0123456789ab", "versions.torch", "2.13.0", "0 to 2"):
        assert setting in text
    for culture in CULTURES:
        assert culture in text


def test_the_contents_lead_to_every_section_and_back(run):
    source = source_of(run).replace(plotly_script(), "")
    sections = re.findall(
        r'<section id="([^"]+)">\n<h2>(.*?)</h2>\n<a class="up" href="#contents"', source
    )
    assert len(sections) == source.count("<h2>") >= 8
    assert len({name for name, _ in sections}) == len(sections)
    nav = source[source.index('<nav id="contents"') : source.index("</nav>")]
    assert re.findall(r'<li><a href="#([^"]+)">(.*?)</a></li>', nav) == sections


def test_lines_that_coincide_differ_in_width_and_marker(looked_at):
    source = source_of(looked_at)
    (drawn,) = re.findall(r'draw\("doses", (.*?)\);</script>', source)
    lines = [each for each in json.loads(drawn)["data"] if each.get("mode") == "lines+markers"]
    widths = [line["line"]["width"] for line in lines]
    assert widths == sorted(set(widths), reverse=True)  # the thinner stands above the thicker
    assert len({line["marker"]["symbol"] for line in lines}) == len(lines) == 2


def test_figures_have_words_for_those_who_cannot_see_them(run):
    plots = [tag for tag in page_of(run).all("div") if tag.get("role") == "img"]
    assert len(plots) == 10
    said = [unescape(plot["aria-label"] or "") for plot in plots]
    assert "culture, general: 54.4 %" in said[0]
    assert "layer 0: 8, layer 1: 8" in said[1]
    assert any("change their own culture by \N{MINUS SIGN}30.0 and the others" in x for x in said)


def integrated(run: Run, **completeness: list[float]) -> Run:
    """The run as one of integrated gradients: figures of the MLP output per role, by path."""

    def changed(scores: NeuronScores, figures: list[float]) -> NeuronScores:
        of_site = {"completeness": {"mlp.hook_post": figures, "attn.hook_q": [0.001]}}
        return replace(scores, source={**scores.source, **of_site})

    scores = {role: changed(run.scores[role], figures) for role, figures in completeness.items()}
    return replace(run, scores=scores)


def test_integrated_gradients_show_how_nearly_they_add_up(run):
    """Per role and site the worst path, in percent; a plain sentence above 5 %, and none below."""
    off = integrated(run, cultural=[0.0123, 0.25], control=[0.0499], recognition=[float("inf")])
    page = page_of(off)
    assert page.unmatched == []
    cells = re.findall(r"<tr>.*?</tr>", source_of(off).partition("<h2>Whether scores add up")[2])
    texts = [re.findall(r">([^<]+)<", line) for line in cells[:3]]
    assert texts == [
        ["Site", "cultural", "control", "recognition"],
        ["mlp.hook_post", "25.0", "5.0", "inf"],
        ["attn.hook_q", "0.1", "0.1", "0.1"],
    ]
    assert (
        "These scores do not add up to what suppression changes: they are off at mlp.hook_post "
        "(cultural) by 25.0 %, mlp.hook_post (recognition) by inf %, and above 5 % they cannot be "
        "relied on. Score the same questions by ct.attribute with more steps"
    ) in page.text
    fine = integrated(run, cultural=[0.0499], control=[0.01], recognition=[0.0])
    text = page_of(fine).text
    assert "Whether scores add up" in text
    assert "do not add up" not in text


def test_other_methods_say_nothing_of_adding_up(run):
    assert "add up" not in page_of(run).text


def reproducing(run: Run) -> str:
    """The code under "How to reproduce"."""
    return unescape(re.findall(r"<pre><code>(.*?)</code></pre>", source_of(run), re.S)[0])


OWN = {"cultural", "control", "recognition", "general", "benchmarks", "culture_test"}


@pytest.mark.parametrize(
    ("given", "choices"),
    [
        ({"benchmarks"}, {"n_random": 1}),
        (
            OWN,
            {
                "sites": ["mlp.hook_post", "attn.hook_v"],
                "method": "integrated_gradients",
                "mlp_top": 0.02,
                "attention_top": 0.03,
                "recognition_top": 0.02,
                "specific_top": 0.005,
                "min_z": 0.25,
                "factor": [0.0, 2.0],
                "n_random": 2,
                "n_layer_matched": 1,
                "recipe": "selective",
                "specific_recipe": "contrast",
                "mode": "options",
                "random_design": "split",
            },
        ),
    ],
    ids=["defaults", "nothing as it is by default"],
)
@pytest.mark.filterwarnings("ignore:Integrated gradients do not add up")
def test_how_to_reproduce_does_so(tmp_path, monkeypatch, given, choices):
    """The printed code, executed, makes a run of the same settings and the same table."""
    few = {"cultures": ["Iran", "Spain"], "limit": 8}
    rows = {
        "cultural": load_benchmark("atlas", split="identify", **few),
        "control": load_benchmark("atlas-control", split="identify", **few),
        "recognition": load_benchmark("atlas-countries", split="identify", **few),
        "general": load_benchmark("atlas-commonsense", split="identify", limit=8),
        "benchmarks": {
            "one": load_benchmark("atlas", split="test", **few),
            f"two\n{ODD}": load_benchmark("atlas-ordering", split="test", limit=8),
        },
        "culture_test": load_benchmark("atlas", split="test", **{**few, "limit": 8}),
    }
    rows = {name: each for name, each in rows.items() if name in given}
    if given == OWN:
        assert choices.keys() == set(inspect.signature(culnig).parameters) - OWN - {
            *("model", "out", "n_cards", "token_budget", "engine", "progress")  # the same result
        }
    else:
        few_rows = partial(load_benchmark, limit=16)
        monkeypatch.setattr("culnig_tl.pipeline.questions.load_benchmark", few_rows)
        uncached = settings._usual_fingerprints.__wrapped__
        monkeypatch.setattr(settings, "_usual_fingerprints", uncached)
    run = culnig(load_model(), out=tmp_path / "first", **rows, **choices, n_cards=0, progress=False)
    monkeypatch.chdir(tmp_path)
    namespace = dict(rows)
    exec(reproducing(run), namespace)
    again = namespace["run"]
    assert again.settings == run.settings
    pd.testing.assert_frame_equal(again.table, run.table)
    page = (tmp_path / "runs" / "again" / "report.html").read_text(encoding="utf-8")
    assert ("Whether scores add up" in page) == ("method" in choices)


def test_how_to_reproduce_names_another_model_and_its_type(run):
    lines = reproducing(replace(run, settings={**run.settings, "dtype": "bfloat16"}))
    compile(lines, "reproduce", "exec")
    assert f"ct.load_model('org/{ODD}', dtype='bfloat16')  # fingerprint 0123456789ab" in lines


def test_how_to_reproduce_says_how_the_rows_were_prepared(run):
    prompts = {"date": "26 Jul 2024", "chat": False}
    lines = reproducing(replace(run, settings={**run.settings, "prompts": prompts}))
    assert "cultural=cultural,  # your rows, ct.prepare(..., chat=False): aaaaaaaaaaaa" in lines
    text = page_of(replace(run, settings={**run.settings, "prompts": prompts})).text
    assert "prompts.date" in text
    assert "26 Jul 2024" in text


def test_only_the_embedded_model_is_graded(run, embedded):
    assert "planted" not in page_of(run).text
    text = page_of(embedded).text
    assert "Culture neurons of the embedded model (atlas)" in text
    assert "no evidence about where large models keep culture" in text
    assert f"Graded against the {len(answer_key('general'))} planted" in text
    assert "AUROC" in text


def test_a_set_equal_to_the_key_has_a_perfect_grade(embedded):
    key = answer_key("general")
    found = NeuronSet.of(key.neurons, shapes=embedded.general.shapes)
    text = page_of(replace(embedded, general=found)).text
    assert "precision 1.00, recall 1.00, F1 1.00" in text


def test_a_run_that_found_nothing_has_a_page(run):
    nothing = replace(
        run,
        general=NeuronSet.of({}, shapes=run.general.shapes),
        specific={},
        effects=pd.DataFrame(),
    )
    page = page_of(nothing)
    assert "No culture-general neuron was found." in page.text
    assert "No culture-specific neurons were tested." in page.text


def test_a_card_says_how_its_neuron_scores(run):
    text = page_of(run).text
    cards = [tag for tag in page_of(run).all("article") if tag.get("class") == "neuron"]
    best = run.general.to_frame()
    assert [card["id"] for card in cards] == [
        f"L{layer}.{site}.{neuron}" for site, layer, neuron, _ in best.itertuples(index=False)
    ]
    site, layer, neuron, _ = best.iloc[0]
    totals = run.scores["cultural"].total(site).flatten()
    value = run.scores["cultural"].total(site)[layer, neuron]
    assert f"{int((totals > value).sum()) + 1:,} of 2,048" in text
    assert "Specific to no single culture." in text
    shared = replace(run, specific={ODD: NeuronSet.of({"mlp.hook_post": [(3, 7)]})})
    assert f"Also specific to: {ODD}." in page_of(shared).text


def articles(run: Run) -> dict[str, str]:
    """Source of every card, by its neuron."""
    found = re.findall(r'<article class="neuron" id="([^"]+)".*?</article>', source_of(run), re.S)
    cards = re.findall(r'<article class="neuron".*?</article>', source_of(run), re.S)
    return dict(zip(found, cards, strict=True))


def test_whole_cards_stand_first_by_their_measured_drop(looked_at):
    drops = {name: card.questions["drop"].mean() for name, card in looked_at.cards.items()}
    ordered = sorted(drops, key=lambda name: -drops[name])
    by_score = [f"L{n}.{s}.{i}" for s, n, i, _ in looked_at.general.to_frame().to_numpy().tolist()]
    assert list(articles(looked_at)) == ordered + [name for name in by_score if name not in drops]
    opposite = {
        name: replace(card, questions=card.questions.assign(drop=-card.questions["drop"]))
        for name, card in looked_at.cards.items()
    }
    turned = replace(looked_at, cards=opposite)
    assert list(articles(turned))[:2] == ordered[::-1]
    text = page_of(turned).text
    for name, drop in drops.items():
        _, layer, index = name.split(".")[0], name[1], name.rpartition(".")[2]
        plain = f"MLP output, layer {layer}, neuron {index}"
        assert re.search(rf"{plain}\s*{re.escape(name)}\s*{re.escape(fall(-drop))}", text)


def test_a_neuron_has_either_a_whole_card_or_a_compact_one(looked_at):
    cards = articles(looked_at)
    assert len(cards) == len(looked_at.general)
    for name, source in cards.items():
        assert ("What it writes" in source) == (name in WHOLE)
        assert ("S of each culture." in source) == (name not in WHOLE)
        assert source.count("Specific to no single culture.") == 1
    for name in WHOLE:
        assert looked_at.cards[name].fragment() in cards[name]
    assert "2 of them are whole" in page_of(looked_at).text


def test_replies_stand_side_by_side(looked_at, run):
    page = page_of(looked_at)
    n_changed = looked_at.replies.n_changed
    assert f"{n_changed} of 2 replies change, of the first questions of each culture" in page.text
    assert looked_at.replies.fragment() in source_of(looked_at)
    assert "replies change" not in page_of(run).text


def test_a_given_card_stands_beside_those_of_the_run(looked_at, model, rows):
    more = inspect_neurons(model, rows, NeuronSet.of({"mlp.hook_post": [(0, 7)]}))
    path = looked_at.report(looked_at.out / "more.html", cards=more)
    page = Page(path.read_text(encoding="utf-8").replace(plotly_script(), ""))
    assert page.unmatched == []
    assert page.text.count("What it writes") == 3
    assert more["L0.mlp.hook_post.7"].summary in page.text


def test_cards_say_how_surely_their_neurons_are_in_the_set(looked_at):
    """Whole cards and compact ones; without the frame the page says what it would cost."""
    assert "of resamples" not in page_of(looked_at).text
    assert "ct.membership, or culnig-tl validate, scores each" in page_of(looked_at).text
    frame = pd.DataFrame(
        [("mlp.hook_post", 0, 57, 0.93), ("mlp.hook_post", 0, 7, 0.41)],
        columns=["site", "layer", "neuron", "membership"],
    )
    path = looked_at.report(looked_at.out / "sure.html", membership=frame)
    page = Page(path.read_text(encoding="utf-8").replace(plotly_script(), ""))
    assert page.unmatched == []
    sentences = re.findall(r"It is in the set in (\d+) % of resamples", page.text)
    at_site = [neuron for neuron in looked_at.general if neuron.site == "mlp.hook_post"]
    assert sorted(map(int, sentences)) == [0] * (len(at_site) - 2) + [41, 93]
    assert "scores each question once more" not in page.text
    with pytest.raises(InvalidInputError, match="no column membership"):
        looked_at.report(looked_at.out / "no.html", membership=frame[["site", "layer", "neuron"]])


def test_the_page_holds_only_as_many_whole_cards_as_keep_it_light(looked_at, monkeypatch):
    """Long prompts make long cards: the best neurons keep theirs, the rest is compact."""
    room = len(looked_at.cards[WHOLE[1]].fragment().encode())
    monkeypatch.setattr("culnig_tl.report.neuron_cards._ROOM_FOR_CARDS", room)
    whole = [name for name, source in articles(looked_at).items() if "What it writes" in source]
    assert whole == [WHOLE[1]]
    monkeypatch.setattr("culnig_tl.report.neuron_cards._ROOM_FOR_CARDS", room - 1)
    text = page_of(looked_at).text
    assert "What it writes" not in text
    assert "They say how their neurons score." in text


# --- a real browser -------------------------------------------------------------------------------


def hovered(page, figure: str, *, x: float, y: float) -> tuple[str, ...]:
    """What the first panel of a figure says where it is pointed at, line by line."""
    panel = page.locator(f"{figure} .nsewdrag").first
    panel.scroll_into_view_if_needed()
    box = panel.bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    lines = page.locator(f"{figure} .hoverlayer .hovertext .line")
    lines.first.wait_for()
    return tuple(lines.all_text_contents())


def clicked(page, figure: str, *, x: float, y: float) -> None:
    """Click the first panel of a figure, and wait for the page to answer."""
    page.evaluate("document.getElementById('cell').textContent = ''")
    panel = page.locator(f"{figure} .nsewdrag").first
    panel.scroll_into_view_if_needed()
    box = panel.bounding_box()
    at = box["x"] + x * box["width"], box["y"] + y * box["height"]
    page.mouse.move(*at)
    page.locator(f"{figure} .hoverlayer .hovertext").first.wait_for()
    page.mouse.click(*at)
    page.wait_for_function("document.getElementById('cell').textContent")


def opened(page) -> list[str]:
    """The cards that are seen."""
    return [card.get_attribute("id") for card in page.locator(".neuron:visible").all()]


CLIPPED = """() => [...document.querySelectorAll('main *')].filter(element => {
  const box = element.getBoundingClientRect();
  const hides = getComputedStyle(element).overflowX !== 'visible' && !element.closest('svg');
  const cut = hides && element.scrollWidth > element.clientWidth + 1;
  return box.width > 0 && !element.closest('.hoverlayer') && (box.right > 719 || cut);
}).map(element => `${element.tagName} ${element.id} ${element.getAttribute('class')}`)"""
"""What reaches beyond the paper, or is cut by what it stands in."""
BEYOND_THE_PAGE = """() => [...document.querySelectorAll('figure *')].filter(element => {
  const {width, right} = element.getBoundingClientRect();
  return width > 0 && right > 400 && !element.closest('.hoverlayer, .modebar, defs');
}).map(element => `${element.closest('.plot')?.id} ${element.getAttribute('class')}`)"""
"""Parts of figures that are cut."""
CROWDED = """() => [...document.querySelectorAll('td, th')].filter(
  ({scrollWidth, clientWidth}) => scrollWidth > clientWidth + 1
).map(cell => cell.textContent.trim())"""
"""Cells whose text runs into the next one."""
CUES = """() => {
  const longer = [...document.querySelectorAll('.scroll')].filter(
    ({scrollWidth, clientWidth}) => scrollWidth > clientWidth);
  const cued = longer.filter(each => getComputedStyle(each).backgroundAttachment.includes('local')
    && getComputedStyle(each).backgroundImage.split('linear-gradient').length === 5);
  return [longer.length, cued.length];
}"""
"""How many tables are wider than the page, and how many of them have shadows that say so."""


@pytest.mark.browser
def test_a_browser_draws_every_figure_without_a_network(looked_at):
    run, path = looked_at, write_report(looked_at, looked_at.out / "report.html")
    first = max(WHOLE, key=lambda name: run.cards[name].mean_drop)
    with browser.opened(path) as page:
        plots = page.locator(".js-plotly-plot")
        page.wait_for_function(
            "document.querySelectorAll('.js-plotly-plot .main-svg').length >= 33"
        )
        assert plots.count() == 11
        assert all(plot.locator(".main-svg").count() == 3 for plot in plots.all())
        browser.keep_screenshot(page, "report")
        page.emulate_media(color_scheme="dark")
        browser.keep_screenshot(page, "report_dark")
        page.emulate_media(color_scheme="light")
        ticks = page.locator("#cultures-change .xtick text").all_text_contents()
        assert ticks == list(CULTURES)
        assert page.locator("#comparison .bars .point").count() == 6
        assert hovered(page, "#general-neurons", x=4 / 512, y=0.1) == (
            "mlp.hook_post, layer 3",
            "1 selected: 7",
        )
        assert hovered(page, "#cultures-change", x=0.5, y=0.2)[:2] == (
            f"masked: {ODD} (9 neurons)",
            "tested: Iran (36 prompts)",
        )
        assert opened(page) == [first]
        clicked(page, "#general-neurons", x=4 / 512, y=0.1)
        assert opened(page) == ["L3.mlp.hook_post.7"]
        assert page.locator("#cell").text_content() == (
            "Layer 3, mlp.hook_post: L3.mlp.hook_post.7 "
        )
        clicked(page, "#modules", x=0.25, y=0.9)
        links = page.locator("#cell a").all_text_contents()
        assert sorted(links) == sorted(f"L0.mlp.hook_post.{n}" for n in range(7, 400, 50))
        assert opened(page) == links[:1]
        page.locator("#cell a").last.click()
        assert opened(page) == links[-1:]
        clicked(page, "#general-neurons", x=4 / 512, y=0.4)
        assert opened(page) == [WHOLE[1]]
        card = page.locator(".neuron:visible")
        assert "What it writes" in card.inner_text()
        assert card.locator(".tokens").count() == 2 * 5  # questions and cultures, best and worst
        browser.keep_screenshot(page, "report_card")
        clicked(page, "#scores", x=500 / 512, y=0.1)
        assert "no neuron with a card" in str(page.locator("#cell").text_content())
        assert opened(page) == [WHOLE[1]]  # in print, a whole card keeps within the paper
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})  # A4 within margins of a cm
        assert page.evaluate(CLIPPED) == []
        browser.keep_screenshot(page, "report_print")


@pytest.mark.browser
def test_a_narrow_page_shows_whole_figures_and_that_tables_go_on(looked_at):
    path = write_report(looked_at, looked_at.out / "report.html")
    with browser.opened(path, width=400) as page:
        page.wait_for_function(
            "document.querySelectorAll('.js-plotly-plot .main-svg').length >= 33"
        )
        assert page.evaluate("document.scrollingElement.scrollWidth") == 400
        assert page.evaluate(BEYOND_THE_PAGE) == []
        columns = page.locator("#general-neurons .nsewdrag").evaluate_all(
            "panels => new Set(panels.map(panel => panel.getBoundingClientRect().left)).size"
        )
        assert columns == 1
        longer, cued = page.evaluate(CUES)
        assert longer > 3
        assert cued == longer
        browser.keep_screenshot(page, "report_narrow")
        hits = page.locator("#hits a")
        page.locator("nav input").fill("iran own accuracy")
        assert hits.all_text_contents() == ["Culture-specific neurons"]
        page.locator("nav input").fill("L2.mlp.hook_post.7, writes")
        assert [hit.get_attribute("href") for hit in hits.all()] == [f"#{WHOLE[1]}"]
        hits.first.click()
        assert opened(page) == [WHOLE[1]]
        assert page.evaluate(CROWDED) == []
        page.locator("nav input").fill("nowhere to be found")
        assert page.locator("#hits").inner_text() == "nothing"


@pytest.mark.browser
def test_an_old_browser_says_why_there_are_no_figures(run):
    path = write_report(run, run.out / "report.html")
    with browser.chromium() as old:
        page = old.new_page()
        page.add_init_script("delete globalThis.DecompressionStream")
        page.goto(path.as_uri())
        page.get_by_text("This browser cannot unpack the figures").wait_for()
        assert page.locator(".js-plotly-plot").count() == 0
    with browser.opened(path) as page:
        page.locator(".js-plotly-plot").first.wait_for()
        assert not page.get_by_text("This browser cannot unpack").is_visible()


def test_a_table_keeps_every_row_of_one_name():
    html = table(("Scores", "Recipe", "P"), [("mine", "a", 1), ("other", "b", 2), ("mine", "c", 3)])
    assert re.findall(r"<td>([abc])</td>", html) == ["a", "c", "b"]
    assert html.count(">mine<") == 1


# --- fine-tuning ----------------------------------------------------------------------------------


def test_a_study_of_fine_tuning_gets_a_section_with_its_own_numbers(run, tmp_path):
    rows = [
        (arm, seed, benchmark, f"q{i}", "", "", right, 0.25 + 0.5 * right)
        for arm, rights in (("before", (0, 1, 1, 1)), ("top", (1, 1, 0, 0)))
        for seed in range(2)
        for benchmark, flip in (("task", False), ("culture", True))
        for i, right in enumerate(rights if not flip else reversed(rights))
    ]
    columns = ["arm", "seed", "benchmark", "id", "culture", "topic", "correct", "probability"]
    answers = pd.DataFrame(rows, columns=columns)
    answers = answers[(answers["arm"] != "before") | (answers["seed"] == 0)]
    answers["correct"] = answers["correct"].astype(bool)
    runs = pd.DataFrame({"arm": "top", "seed": range(2)})
    study = FineTuningStudy(answers, runs, pd.DataFrame())
    page = run.report(tmp_path / "tuned.html", finetuning=study).read_text(encoding="utf-8")
    assert "What fine-tuning costs" in page
    assert "2 seeds per arm" in page
    line = study.frame.set_index("benchmark").loc["task"]
    assert f"{line['change']:+.1f} [{line['change_low']:+.1f}" in page
    plain = run.report(tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "What fine-tuning costs" not in plain
