"""A run is whole, resumable and never a mixture; what it finds is what its parts find."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from culnig_tl.attribution import attribute
from culnig_tl.errors import InvalidInputError, UnwritableError
from culnig_tl.evaluation import FACTORS, Condition, compare, dose_response
from culnig_tl.files import read_record, write_record
from culnig_tl.inspection import generate, inspect_neuron
from culnig_tl.models import load_model
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.pipeline import culnig, scoring, stages
from culnig_tl.pipeline.settings import _FORMAT
from culnig_tl.questions import DATE
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general, culture_specific, random_neurons

pytestmark = pytest.mark.filterwarnings(
    "ignore:Rows that test are among the rows that found",
    "ignore:The neurons were found on",
    "ignore:Letter questions are at chance",
)
"""Six prompts find and test here, and a random model answers them; see test_misleading."""

FEW_ROWS = [
    pytest.mark.filterwarnings(f"ignore:{sentence}")
    for sentence in (
        "Rows that test are among the rows that found",
        "The neurons were found on",
        "Letter questions are at chance",
        "The control scores higher than the cultural",
    )
]
"""The tiny model's rows find and test alike."""
pytestmark = FEW_ROWS

SETTINGS = {
    "mlp_top": 0.05,
    "attention_top": 0.05,
    "recognition_top": 0.02,
    "specific_top": 0.1,
    "n_random": 2,
    "n_cards": 0,
}
FILES = {
    "settings.json",
    "table.csv",
    "culture_effects.csv",
    *(f"scores/{name}.safetensors" for name in ("cultural", "control", "recognition")),
    *(f"neurons/{name}.json" for name in ("general", "specific/A", "specific/B")),
    *(f"answers_of_cultures/specific/{culture}.parquet" for culture in "AB"),
    *(
        f"answers/{benchmark}/{name}.parquet"
        for benchmark in ("tiny", "half")
        for name in ("original-0", "general-0", "random-0", "random-1")
    ),
}
CLOSER = {"answers/doses.parquet", "answers/replies.parquet", "doses.csv"}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def is_checkpoint(name: str | Path) -> bool:
    return str(name).endswith(".checkpoint")


def control_of(rows):
    return rows.map(lambda row: {**row, "prompt": "Answer:"})


def names_of(rows):
    """The country-name control knows the cultures A and B only."""
    kept = rows.select([i for i, culture in enumerate(rows["culture"]) if culture != "C"])
    return kept.map(lambda row: {**row, "prompt": row["culture"] + " rice Answer:"})


def run_on(model, rows, folder: Path, **changes):
    """The whole method on the tiny model."""
    options = {
        **SETTINGS,
        "cultural": rows,
        "control": control_of(rows),
        "recognition": names_of(rows),
        "benchmarks": {"tiny": rows, "half": rows.select(range(3))},
        "progress": False,
        **changes,
    }
    return culnig(model, out=folder, **options)


@pytest.fixture
def run_in(model, rows):
    """``run_in(folder, **changes)``: the whole method on the tiny model."""
    return partial(run_on, model, rows)


@pytest.fixture(scope="module")
def undisturbed(loaded, rows, tmp_path_factory):
    """A run with one card that nothing stopped."""
    return run_on(loaded(), rows, tmp_path_factory.mktemp("run") / "whole", n_cards=1)


def test_a_run_finds_what_its_parts_find(run_in, model, rows, tmp_path):
    run = run_in(tmp_path / "run")
    cultural = attribute(model, rows, progress=False)
    control = attribute(model, control_of(rows), clamp=True, progress=False)
    names = attribute(model, names_of(rows), progress=False)
    shares: dict[str, Any] = {"mlp_top": 0.05, "attention_top": 0.05, "recognition_top": 0.02}
    general = culture_general(cultural, control, names, **shares)
    assert len(general) > 0
    assert set(run.general) == set(general)
    assert set(run.specific) == {"A", "B"}
    for culture, neurons in run.specific.items():
        assert set(neurons) == set(
            culture_specific(
                cultural, control, names, culture=culture, top=0.1, recognition_top=0.02
            )
        )
    conditions = {
        "original": None,
        "general": general,
        "random": [random_neurons(model, like=general, seed=seed) for seed in (0, 1)],
    }
    benchmarks = {"tiny": rows, "half": rows.select(range(3))}
    table = compare(model, benchmarks, conditions, progress=False)
    pd.testing.assert_frame_equal(run.table, table)
    assert set(run.effects["masked"]) == {"A", "B"}
    assert set(run.effects["tested"]) == {"A", "B", "C"}


def test_the_specific_neurons_of_a_run_can_be_found_by_contrast(run_in, model, rows, tmp_path):
    run = run_in(tmp_path, specific_recipe="contrast", specific_top=0.5)
    assert run.settings["specific"] == {"top": 0.5, "min_z": 0.5, "recipe": "contrast"}
    cultural = attribute(model, rows, progress=False)
    control = attribute(model, control_of(rows), clamp=True, progress=False)
    names = attribute(model, names_of(rows), progress=False)
    for culture, neurons in run.specific.items():
        own = culture_specific(
            *(cultural, control, names),
            culture=culture,
            recipe="contrast",
            top=0.5,
            recognition_top=0.02,
        )
        assert len(own) > 0
        assert neurons == own
    assert len(run.specific["A"] & run.specific["B"]) == 0
    assert set(run.general) == set(run_in(tmp_path / "usual").general)
    pd.testing.assert_frame_equal(
        run.table, run_in(tmp_path, specific_recipe="contrast", specific_top=0.5).table
    )


def test_the_recipe_of_the_run_is_that_of_its_specific_neurons(run_in, passes, tmp_path):
    """Said or not, it is the same run; folders of before one could say are gone on with."""
    run = run_in(tmp_path)
    assert "recipe" not in run.settings["specific"]
    passes.clear()
    assert run_in(tmp_path, specific_recipe="published").settings == run.settings
    assert passes == []


@pytest.mark.parametrize(
    ("recipe", "named"),
    [("selective", "only recipe='selective' scores the general questions"), ("mean", "choose one")],
)
def test_a_specific_recipe_that_cannot_be_is_refused(
    run_in, passes, tmp_path, as_for_a_user, recipe, named
):
    with pytest.raises(InvalidInputError, match=rf"specific_recipe is '{recipe}'.*{named}"):
        run_in(tmp_path / "run", specific_recipe=recipe)
    assert passes == []
    assert not (tmp_path / "run").exists()


def test_a_selective_run_may_take_the_published_rule_for_its_specific_neurons(
    run_in, rows, tmp_path
):
    general = rows.map(lambda row: {**row, "culture": "", "prompt": f"tea {row['prompt']}"})
    run = run_in(
        tmp_path / "mixed", recipe="selective", general=general, specific_recipe="published"
    )
    assert run.settings["specific"]["recipe"] == "published"
    usual = run_in(tmp_path / "usual")
    assert run.specific == usual.specific


def test_a_run_leaves_its_files_and_they_hold_what_it_returns(run_in, tmp_path):
    run = run_in(tmp_path)
    assert files(tmp_path) == FILES
    assert NeuronSet.load(tmp_path / "neurons" / "general.json") == run.general
    for name, scores in run.scores.items():
        loaded = NeuronScores.load(tmp_path / "scores" / f"{name}.safetensors")
        assert all(loaded.total(site).equal(scores.total(site)) for site in scores.sites)
    written = pd.read_csv(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(written, run.table, check_dtype=False)


def test_a_second_call_reads_and_makes_no_forward_pass(run_in, passes, tmp_path):
    first = run_in(tmp_path)
    assert len(passes) > 0
    passes.clear()
    second = run_in(tmp_path)
    assert passes == []
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.effects, second.effects)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mlp_top": 0.2}, "general"),
        ({"min_z": 0.1}, "specific"),
        ({"specific_recipe": "contrast"}, "specific"),
        ({"recognition_top": 0.5}, "recognition_top"),
        ({"factor": 2.0}, "factor"),
        ({"factor": [0.0, 2.0]}, "more_factors"),
        ({"n_random": 1}, "n_random"),
        ({"n_layer_matched": 1}, "n_layer_matched"),
        ({"mode": "options"}, "mode"),
        ({"sites": ["mlp.hook_post"]}, "sites"),
    ],
)
def test_other_settings_in_the_same_folder_are_named(run_in, tmp_path, changes, named):
    run_in(tmp_path)
    before = files(tmp_path)
    with pytest.raises(InvalidInputError, match=rf"other settings \({named}\); give another"):
        run_in(tmp_path, **changes)
    assert files(tmp_path) == before


def test_other_data_and_another_model_in_the_same_folder_are_named(run_in, loaded, rows, tmp_path):
    run_in(tmp_path)
    fewer = rows.select(range(5))
    with pytest.raises(InvalidInputError, match=r"other settings \(data\)"):
        run_in(tmp_path, cultural=fewer)
    with pytest.raises(InvalidInputError, match=r"other settings \(benchmarks, culture_test\)"):
        run_in(tmp_path, benchmarks={"tiny": fewer})
    with pytest.raises(InvalidInputError, match=r"other settings \(.*model"):
        culnig(
            loaded(4),
            out=tmp_path,
            cultural=rows,
            control=control_of(rows),
            recognition=names_of(rows),
            benchmarks={"tiny": rows, "half": rows.select(range(3))},
            progress=False,
            **SETTINGS,
        )


DATED = (
    "{{ date_string }}{% for m in messages %}<user>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


def test_the_date_in_the_prompts_is_among_the_settings(rows, tmp_path, make_llama, make_tokenizer):
    """Scores of another date are those of other prompts; plain prompts have none, and so have the
    folders of before there were dates."""
    model = load_model(make_llama(tmp_path / "model", tokenizer=make_tokenizer()))
    model.cfg.n_ctx = 512
    assert "prompts" not in run_on(model, rows, tmp_path / "plain").settings
    model.tokenizer = make_tokenizer(chat_template=DATED)
    out = tmp_path / "dated"
    dated = run_on(model, rows, out)
    assert dated.settings["prompts"] == {"date": DATE}
    assert f"<td>{DATE}</td>" in dated.report().read_text(encoding="utf-8")
    pd.testing.assert_frame_equal(run_on(model, rows, out).table, dated.table)
    written, _ = read_record(out / "settings.json", _FORMAT)
    for prompts in ({}, {"date": "01 Jan 2020"}):
        write_record(out / "settings.json", _FORMAT, written | {"prompts": prompts})
        with pytest.raises(InvalidInputError, match=r"other settings \(prompts\); give another"):
            run_on(model, rows, out)


def test_several_factors_and_layer_matched_sets_are_conditions_of_their_own(
    run_in, model, rows, tmp_path
):
    run = run_in(tmp_path, factor=[0.0, 2.0], n_layer_matched=1, mode="options")
    random, matched = (
        [
            random_neurons(model, like=run.general, seed=seed, layer_matched=layer_matched)
            for seed in range(number)
        ]
        for number, layer_matched in ((2, False), (1, True))
    )
    sets = {"general": run.general, "random": random, "layer-matched": matched}
    table = compare(
        model,
        {"tiny": rows, "half": rows.select(range(3))},
        [
            Condition("original"),
            *(
                Condition.of(name, each, factor)
                for factor in (0.0, 2.0)
                for name, each in sets.items()
            ),
        ],
        mode="options",
        progress=False,
    )
    pd.testing.assert_frame_equal(run.table, table)
    assert run.settings["factor"] == 0.0
    assert run.report().is_file()


def test_the_best_neurons_have_cards_and_the_set_has_doses(run_in, model, rows, tmp_path):
    run = run_in(tmp_path, n_cards=2)
    best = [Neuron(*place) for *place, _ in run.general.to_frame().head(2).itertuples(index=False)]
    assert [*run.cards] == [str(neuron) for neuron in best]
    for neuron in best:
        card = inspect_neuron(model, rows, neuron, scores=run.scores)
        assert run.cards[card.id].fragment() == card.fragment()
    benchmarks = {"tiny": rows, "half": rows.select(range(3))}
    doses = dose_response(model, benchmarks, run.general, factors=FACTORS, progress=False)
    pd.testing.assert_frame_equal(run.doses, doses)
    assert min(FACTORS) == 0
    assert max(FACTORS) == 2
    written = pd.read_csv(tmp_path / "doses.csv")
    pd.testing.assert_frame_equal(written, doses, check_dtype=False)


def test_cards_and_doses_are_made_on_draws_that_do_not_grow(run_in, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "CARD_PROMPTS", 4)
    monkeypatch.setattr(stages, "DOSE_PROMPTS", 2)
    run = run_in(tmp_path, n_cards=1)
    (card,) = run.cards.values()
    assert len(card.questions) == 4
    assert (run.doses["n_questions"] <= 2).all()


def test_doses_count_answers_as_the_run_does(run_in, tmp_path):
    run = run_in(tmp_path, mode="options", n_cards=1)
    as_it_is = run.table[run.table["condition"] == "original"].set_index("benchmark")["accuracy"]
    doses = run.doses[run.doses["factor"] == 1].set_index("benchmark")["accuracy"]
    pd.testing.assert_series_equal(doses, as_it_is)


def test_replies_are_those_of_generate(run_in, model, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "REPLIES_PER_CULTURE", 1)
    run = run_in(tmp_path, n_cards=1)
    firsts = [next(r for r in rows if r["culture"] == culture)["prompt"] for culture in "BAC"]
    expected = generate(model, firsts, run.general, max_new_tokens=12)
    assert run.replies is not None
    pd.testing.assert_frame_equal(run.replies.frame, expected.frame)
    assert run.replies.replies == expected.replies
    monkeypatch.setattr(stages, "REPLY_TOKENS", model.cfg.n_ctx)
    assert run_in(tmp_path, n_cards=1).replies is None


def test_a_folder_without_cards_gets_them(run_in, passes, tmp_path):
    old = run_in(tmp_path)
    assert old.cards == {}
    assert old.doses.empty
    assert old.report().is_file()
    new = run_in(tmp_path, n_cards=1)
    pd.testing.assert_frame_equal(new.table, old.table)
    (card,) = (tmp_path / "cards").iterdir()
    made = card.stat().st_mtime_ns
    assert len(run_in(tmp_path, n_cards=2).cards) == 2
    assert len(list((tmp_path / "cards").iterdir())) == 2
    assert card.stat().st_mtime_ns == made
    passes.clear()
    assert len(run_in(tmp_path, n_cards=2).cards) == 2
    assert passes == []


def test_a_run_that_found_nothing_has_no_cards(run_in, tmp_path):
    run = run_in(tmp_path, mlp_top=0.0, attention_top=0.0, n_random=0, n_cards=2)
    assert len(run.general) == 0
    assert run.cards == {}
    assert not (tmp_path / "cards").exists()


def test_fewer_than_no_cards_are_refused(run_in, tmp_path):
    with pytest.raises(InvalidInputError, match="n_cards is -1; give a whole number from 0 up"):
        run_in(tmp_path / "run", n_cards=-1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rows": 5}, "data is"),
        ({"model": 4}, "model is"),
        ({"sites": ["mlp.hook_post"]}, r"sites is \['mlp.hook_post'\], not"),
        ({"clamp": True}, "clamp is True, not False"),
        ({"padding": "zero"}, "padding is 'zero', not 'ignore'"),
    ],
)
def test_scores_of_something_else_are_never_taken_for_the_runs_own(
    run_in, loaded, rows, tmp_path, changes, named
):
    options = {"rows": 6, "model": 2, "clamp": False, **changes}
    chosen, model = rows.select(range(options.pop("rows"))), loaded(options.pop("model"))
    path = tmp_path / "scores" / "cultural.safetensors"
    attribute(model, chosen, progress=False, **options).save(path)
    with pytest.raises(InvalidInputError, match=rf"cultural\.safetensors.*\({named}"):
        run_in(tmp_path)
    path.unlink()
    assert len(run_in(tmp_path).general) > 0


@pytest.mark.parametrize("factors", [[], [0.0, 0.0]])
def test_no_factor_and_a_factor_given_twice_are_refused(run_in, tmp_path, factors):
    with pytest.raises(InvalidInputError, match="at least one, and each of them once"):
        run_in(tmp_path / "run", factor=factors)
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_way_is_a_sentence(run_in, passes, tmp_path):
    (tmp_path / "run").write_text("I am a file")
    with pytest.raises(UnwritableError, match="cannot be written"):
        run_in(tmp_path / "run")
    assert passes == []


@pytest.mark.parametrize("stop_at", [0, 2, 4, 6, 8, 10, 19, 20, 21])
def test_an_interrupted_run_leaves_no_part_and_ends_like_one_that_was_not(
    run_in, undisturbed, tmp_path, monkeypatch, stop_at
):
    """Ctrl-C as a file is about to get its name: settings, scores, sets, answers, tables, a card
    and the doses, in this order."""
    everything = FILES | CLOSER | {f"cards/{name}.json" for name in undisturbed.cards}
    named, replace = [], os.replace

    def interrupted(source, target):
        if is_checkpoint(target):
            replace(source, target)
            return
        if len(named) == stop_at:
            raise KeyboardInterrupt
        named.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_in(tmp_path / "stopped", n_cards=1)
    left = {name for name in files(tmp_path / "stopped") if not is_checkpoint(name)}
    assert len(left) == stop_at
    assert left < everything
    resumed = run_in(tmp_path / "stopped", n_cards=1)
    assert files(tmp_path / "stopped") == everything
    pd.testing.assert_frame_equal(resumed.table, undisturbed.table)
    pd.testing.assert_frame_equal(resumed.effects, undisturbed.effects)
    pd.testing.assert_frame_equal(resumed.doses, undisturbed.doses)
    assert [*resumed.cards] == [*undisturbed.cards]


def test_an_interrupt_while_scoring_keeps_what_was_done(
    run_in, passes, tmp_path, monkeypatch, model, n_hooks
):
    before = n_hooks(model)
    score = scoring.attribute
    calls = []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "attribute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_in(tmp_path / "stopped")
    assert files(tmp_path / "stopped") == {"settings.json", "scores/cultural.safetensors"}
    assert n_hooks(model) == before
    passes.clear()
    resumed = run_in(tmp_path / "stopped")
    rest = len(passes)
    passes.clear()
    whole = run_in(tmp_path / "whole")
    assert rest == len(passes) - 1  # one batch of cultural questions was not scored again
    pd.testing.assert_frame_equal(resumed.table, whole.table)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from conftest import LABELS, ROWS
from test_pipeline import SETTINGS, control_of, names_of
from culnig_tl import culnig, load_model, questions

kept, replace = [], os.replace
def killed(source, target):
    if str(source).endswith(".part") and not str(source).endswith(".checkpoint.part"):
        if len(kept) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        kept.append(target)
    replace(source, target)
os.replace = killed
rows = questions([{**row, "options": LABELS} for row in ROWS])
culnig(load_model(sys.argv[1], backend="hooked", dtype="float64"), out=sys.argv[2],
       cultural=rows, control=control_of(rows), recognition=names_of(rows),
       benchmarks={"tiny": rows, "half": rows.select(range(3))}, progress=False, **SETTINGS)
"""


def test_a_killed_run_is_resumed(run_in, folders, tmp_path):
    """SIGKILL asks nobody: the part of the fourth file stays and must not be taken for a file."""
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, folders[2], tmp_path / "run", Path(__file__).parent],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [path.name for path in (tmp_path / "run").rglob("*.part")] == [
        "recognition.safetensors.part"
    ]
    resumed = run_in(tmp_path / "run")
    assert files(tmp_path / "run") == FILES
    pd.testing.assert_frame_equal(resumed.table, run_in(tmp_path / "whole").table)


def test_a_run_without_shared_cultures_has_no_specific_neurons(run_in, rows, tmp_path):
    elsewhere = rows.map(lambda row: {**row, "culture": "Elsewhere"})
    run = run_in(tmp_path, recognition=elsewhere)
    assert dict(run.specific) == {}
    assert len(run.effects) == 0
    assert len(run_in(tmp_path, recognition=elsewhere).effects) == 0


def test_cultures_whose_names_look_alike_keep_apart(run_in, rows, tmp_path):
    renamed = rows.map(
        lambda row: {**row, "culture": {"A": "South Korea", "B": "South-Korea"}.get(row["culture"])}
    )
    renamed = renamed.map(lambda row: {**row, "culture": row["culture"] or "C"})
    run = run_in(
        tmp_path,
        cultural=renamed,
        control=control_of(renamed),
        recognition=names_of(renamed),
        benchmarks={"tiny": renamed},
    )
    kept = [NeuronSet.load(path) for path in (tmp_path / "neurons" / "specific").iterdir()]
    assert len(kept) == len(run.specific) == 2
    assert all(neurons in kept for neurons in run.specific.values())
