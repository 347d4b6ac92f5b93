"""The command line: what a user types, what they read, what is left on disk."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from families import save
from test_pipeline import FEW_ROWS
from typer.testing import CliRunner

import culnig_tl as ct
from culnig_tl.attribution.methods import METHODS
from culnig_tl.cli import app

pytestmark = FEW_ROWS
COMMANDS = ("demo", "run", "paper", "score", "select", "evaluate")
GENERAL_TASKS = ("country names", "common sense", "ordering", "entailment")


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Eight of the embedded model's questions as a csv file."""
    return _csv(tmp_path / "rows.csv", "atlas")


@pytest.fixture
def control_file(tmp_path: Path) -> Path:
    """The same eight without their question."""
    return _csv(tmp_path / "control.csv", "atlas-control")


def _csv(path: Path, benchmark: str) -> Path:
    frame = pd.DataFrame(ct.load_benchmark(benchmark, split="identify", limit=8).to_list())
    frame["options"] = [json.dumps(options) for options in frame["options"]]
    frame.to_csv(path, index=False)
    return path


def invoke(*arguments: object) -> tuple[int, str]:
    """Exit code and all that a command printed, on one line."""
    texts = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, texts, catch_exceptions=False)
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    code, shown = invoke(command, "--help")
    assert code == 0
    assert f"culnig-tl {command}" in shown
    assert "Example" in shown


def test_neurons_are_named_on_the_command_line(rows_file: Path) -> None:
    names = ["L0.mlp.hook_post.152", "L2.mlp.hook_post.201"]
    code, printed = invoke("evaluate", "atlas", rows_file, "--neurons", ",".join(names), "--quiet")
    assert code == 0, printed
    rows = ct.questions_from_frame(rows_file)
    mean = ct.evaluate(ct.load_model(), rows, neurons=ct.NeuronSet.of(names))["probability"].mean()
    assert f"mean P(answer) {mean:.3f}, 8 prompts" in printed
    code, printed = invoke("evaluate", "atlas", rows_file, "--neurons", "L0.152", "--quiet")
    assert code == 2
    assert "'L0.152' is no neuron; write layer, site and number" in printed


def test_score_select_and_evaluate_agree_with_the_library(rows_file: Path, tmp_path: Path) -> None:
    scores_file, neurons_file = tmp_path / "scores.safetensors", tmp_path / "neurons.json"
    answers_file = tmp_path / "answers.csv"
    assert invoke("score", "atlas", rows_file, "--out", scores_file, "--quiet")[0] == 0
    assert invoke("select", "--cultural", scores_file, "--out", neurons_file)[0] == 0
    code, shown = invoke(
        *(
            "evaluate",
            "atlas",
            rows_file,
            "--neurons",
            neurons_file,
            "--out",
            answers_file,
            "--quiet",
        )
    )
    assert code == 0

    model, rows = ct.load_model(), ct.questions_from_frame(rows_file)
    general = ct.culture_general(ct.attribute(model, rows, progress=False))
    assert ct.NeuronSet.load(neurons_file).neurons == general.neurons
    accuracy = 100 * ct.evaluate(model, rows, neurons=general)["correct"].mean()
    assert f"accuracy {accuracy:.1f} %" in shown
    assert len(answers_file.read_text(encoding="utf-8").splitlines()) == 1 + len(rows)


def test_neurons_of_one_culture_by_contrast(rows_file: Path, tmp_path: Path) -> None:
    scores_file, neurons_file = tmp_path / "scores.safetensors", tmp_path / "neurons.json"
    invoke("score", "atlas", rows_file, "--out", scores_file, "--quiet")
    culture = ct.questions_from_frame(rows_file)["culture"][0]
    chosen = ("--specific-recipe", "contrast")
    select = ("select", "--cultural", scores_file, "--out", neurons_file)
    code, shown = invoke(*select, "--culture", culture, *chosen)
    assert code == 0, shown
    scores = ct.NeuronScores.load(scores_file)
    own = ct.culture_specific(scores, culture=culture, recipe="contrast")
    assert ct.NeuronSet.load(neurons_file).neurons == own.neurons
    code, shown = invoke(*select, *chosen)
    assert code == 2
    assert "there is no --culture" in shown


CHAT = (
    "{% for m in messages %}<user>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


@pytest.fixture
def asked(tmp_path, make_llama, make_tokenizer):
    """A folder with a model of two chat templates, its rows as a file, and what evaluate writes."""
    templates = {"default": CHAT, "short": CHAT.replace("<user>", "<u>")}
    folder = make_llama(tmp_path / "chat", tokenizer=make_tokenizer(chat_template=templates))
    rows = pd.DataFrame(
        [
            {"id": f"q{n}", "prompt": f"{word}? Answer:", "options": '[" A", " B"]', "answer": " A"}
            for n, word in enumerate(("tea", "rice", "bread soup"))
        ]
    )
    rows.assign(culture=["X", "Y", "X"]).to_csv(tmp_path / "asked.csv", index=False)
    return folder, tmp_path / "asked.csv", tmp_path / "answers.csv"


ASKING = [
    ([], {}),
    (["--no-chat"], {"chat": False}),
    (["--template", "short"], {"template": "short"}),
]


@pytest.mark.parametrize(("options", "arguments"), ASKING)
def test_how_a_model_is_asked_is_said_on_the_command_line(asked, tmp_path, options, arguments):
    """Answers, scores and runs are those of questions prepared in this way."""
    folder, rows_csv, answers_csv = asked
    model = ct.load_model(folder, device="cpu")
    prepared = ct.prepare(model, ct.questions_from_frame(rows_csv), **arguments)
    shell = (folder, rows_csv, "--device", "cpu", "--quiet", *options)
    code, printed = invoke("evaluate", *shell, "--out", answers_csv)
    assert code == 0, printed
    expected = ct.evaluate(model, prepared)["probability"]
    assert pd.read_csv(answers_csv)["probability"].tolist() == pytest.approx(expected.tolist())
    assert invoke("score", *shell, "--out", tmp_path / "scores.safetensors")[0] == 0
    scores = ct.NeuronScores.load(tmp_path / "scores.safetensors")
    assert scores.source["data"] == prepared.fingerprint
    ours = ct.attribute(model, prepared, progress=False)
    assert torch.equal(scores.total("mlp.hook_post"), ours.total("mlp.hook_post"))
    if not options:
        return
    named = ("--cultural", "--control", "--recognition")
    rows = [text for name in named for text in (name, rows_csv)]
    out = ("--out", tmp_path / "run", "--n-random", 1, "--cards", 0, "--quiet", "--device", "cpu")
    code, printed = invoke("run", folder, *rows, "--benchmark", f"b={rows_csv}", *out, *options)
    assert code == 0, printed
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["prompts"] == arguments
    assert settings["data"]["cultural"] == settings["benchmarks"]["b"] == prepared.fingerprint


@pytest.mark.parametrize("command", ["score", "evaluate", "run", "paper"])
def test_every_command_that_loads_a_model_takes_its_limits_and_trust(command):
    _, shown = invoke(command, "--help")
    assert "--trust" in shown
    assert "--n-ctx" in shown


def test_an_unknown_template_and_a_short_context_are_a_sentence(asked):
    folder, rows_csv, _ = asked
    for options, sentence in (
        (("--template", "long"), "no chat template 'long'; this model has 'default', 'short'"),
        (("--template", "short", "--no-chat"), "give one of the two"),
        (("--n-ctx", 9), "tokens and the model's context is 9; shorten"),
        (("--n-ctx", 0), "n_ctx is 0"),
    ):
        code, printed = invoke("evaluate", folder, rows_csv, "--quiet", *options)
        assert code == 2
        assert sentence in printed


def test_trust_is_said_on_the_command_line(asked, tmp_path, make_tokenizer):
    """A BERT sees later tokens: refused, or taken with a warning."""
    _, rows_csv, _ = asked
    save("bert", tmp_path / "bert", make_tokenizer())
    code, printed = invoke("evaluate", tmp_path / "bert", rows_csv, "--quiet")
    assert code == 2
    assert "no causal language model" in printed
    with pytest.warns(UserWarning, match=r"on trust although .* no causal language model"):
        code, printed = invoke("evaluate", tmp_path / "bert", rows_csv, "--quiet", "--trust")
    assert code == 0
    assert "3 prompts" in printed


def test_a_table_of_questions_is_as_good_as_one_of_prompts(tmp_path: Path) -> None:
    table, answers_file = tmp_path / "plain.csv", tmp_path / "answers.csv"
    head = "question,option_a,option_b,answer,culture\n"
    good, bad = "Hot drink in Iran?,tea,coffee,tea,Iran\n", "Staple food in Iran?,rice,,A,Iran\n"
    table.write_text(head + good, encoding="utf-8")
    shell = ("evaluate", "atlas", table, "--out", answers_file, "--quiet")
    assert invoke(*shell)[0] == 0
    asked = ct.questions_from_frame(table)
    assert pd.read_csv(answers_file)["template"].to_list() == asked["template"][:]
    assert invoke("score", "atlas", table, "--out", tmp_path / "scores.safetensors")[0] == 0
    scores = ct.NeuronScores.load(tmp_path / "scores.safetensors")
    assert (scores.cultures, scores.n_questions) == (("Iran",), 1)

    table.write_text(head + good + bad, encoding="utf-8")
    code, shown = invoke(*shell)
    assert code == 2
    assert "1 of 2 rows cannot be used: row 1: option B must be text and not empty" in shown


def test_run_writes_everything_that_a_run_has(
    rows_file: Path, control_file: Path, tmp_path: Path
) -> None:
    out, sure = tmp_path / "run", tmp_path / "membership.csv"
    rows = ct.questions_from_frame(rows_file)
    best = ct.culture_general(ct.attribute(ct.load_model(), rows, progress=False)).to_frame()
    best.assign(membership=0.93).to_csv(sure, index=False)
    code, shown = invoke(
        *("run", "atlas", "--cultural", rows_file, "--control", control_file),
        *("--recognition", "atlas-countries:identify", "--benchmark", f"mine={rows_file}"),
        *("--out", out, "--n-random", 2, "--cards", 1, "--quiet"),
        *("--specific-recipe", "contrast", "--membership", sure),
    )
    assert code == 0, shown
    assert "mine" in shown
    assert "in the set in 93 % of resamples" in (out / "report.html").read_text(encoding="utf-8")
    assert '"recipe": "contrast"' in (out / "settings.json").read_text(encoding="utf-8")
    for name in ("settings.json", "table.csv", "report.html", "neurons/general.json"):
        assert (out / name).is_file()
    assert len(list((out / "cards").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("score", "no-such/model", "atlas:test"), "no-such/model"),
        (("score", "./no-such-folder", "atlas:test"), "config.json"),
        (("score", "atlas", "no-such-file.csv"), "no-such-file.csv"),
        (("score", "atlas", "atlas:train"), "identify, test and all"),
        (("score", "atlas", "nothing:test"), "the known ones are atlas"),
        (("score", "atlas", "atlas:test", "--device", "cuda:99"), "device is 'cuda:99', which can"),
        (("score", "atlas", "atlas:test", "--device", "tpu"), "device is 'tpu', which cannot be"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, shown = invoke(*arguments, "--out", "scores.safetensors", "--quiet")
    assert code == 2
    assert expected in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_a_hub_behind_a_proxy_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    """As a user starts it; transformers alone would ask again for half a minute, in 40 lines."""
    nowhere = "http://127.0.0.1:9"  # no one listens there
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere)
    left_out = ("HF_HUB_OFFLINE", "no_proxy", "NO_PROXY")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        [sys.executable, "-m", "culnig_tl", "evaluate", "nobody/nothing-7b", "atlas:test"],
        env=environment | proxies | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: 'nobody/nothing-7b' could not be loaded (https://huggingface.co")
    assert "cannot be reached and the local cache does not have it" in line


def test_empty_rows_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("id,prompt,options,answer\n", encoding="utf-8")
    code, shown = invoke("score", "atlas", empty, "--out", tmp_path / "scores", "--quiet")
    assert code == 2
    assert "no rows" in shown


def test_an_answer_of_several_tokens_is_named(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(
        'id,prompt,options,answer\nq1,Which?,"["" two words"", "" tea""]", two words\n',
        encoding="utf-8",
    )
    code, shown = invoke("score", "atlas", rows, "--out", tmp_path / "scores", "--quiet")
    assert code == 2
    assert "' two words'" in shown
    assert "one token" in shown


def test_an_unwritable_place_is_named(rows_file: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder", encoding="utf-8")
    code, shown = invoke("score", "atlas", rows_file, "--out", in_the_way / "scores", "--quiet")
    assert code == 2
    assert "cannot be written" in shown
    assert in_the_way.read_text(encoding="utf-8") == "not a folder"


def test_what_cannot_be_written_is_found_out_before_the_model_is_loaded(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ct, "load_model", None)
    scores, folder, in_the_way = (tmp_path / name for name in ("s.safetensors", "f", "file"))
    folder.mkdir()
    scores.write_text("a night's work", encoding="utf-8")
    in_the_way.write_text("no folder", encoding="utf-8")
    said = {
        folder: f"{folder} is a folder; give the name of a file in it.",
        in_the_way / "s": f"{in_the_way / 's.lock'} cannot be written",
    }
    for command in ("score", "evaluate"):
        for out, sentence in said.items():
            code, shown = invoke(command, "atlas", rows_file, "--out", out, "--quiet")
            assert code == 2
            assert sentence in shown
    code, shown = invoke("score", "atlas", rows_file, "--out", scores, "--quiet")
    assert (code, scores.read_text(encoding="utf-8")) == (2, "a night's work")
    assert "is there already; give another name, or --force to write over it" in shown
    assert list(folder.iterdir()) == []


def test_force_writes_over_a_file(rows_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    out.write_text("no scores", encoding="utf-8")
    assert invoke("score", "atlas", rows_file, "--out", out, "--quiet", "--force")[0] == 0
    assert sum(ct.NeuronScores.load(out).n_prompts) == 8


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_while_scoring_is_kept_and_only_then_said(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """The signal comes in the second of three batches; ten minutes have not passed."""
    out, before = tmp_path / "s.safetensors", signal.getsignal(signal.SIGTERM)
    checkpoint = tmp_path / "s.safetensors.checkpoint"
    shell = ("score", "atlas", rows_file, "--out", out, "--quiet", "--token-budget", 100)
    score, calls = METHODS["gradient_x_activation"], []

    def signalled(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(number)
        return score(*arguments)

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "gradient_x_activation", signalled)
        stopped, shown = invoke(*shell)
    assert stopped == code
    assert shown == (
        f"Stopped; what is finished is kept in {checkpoint}, the same command goes on from there."
    )
    assert checkpoint.is_file()
    assert signal.getsignal(signal.SIGTERM) == before
    assert invoke(*shell)[0] == 0
    assert not checkpoint.exists()
    whole = tmp_path / "whole.safetensors"
    assert invoke("score", "atlas", rows_file, "--out", whole, "--quiet", *shell[-2:])[0] == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_that_python_swallows_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """Python prints what is raised as an object is deleted, and goes on."""

    class Deleted:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def load(*arguments: object, **options: object) -> None:
        Deleted()
        for _ in range(1000):
            time.sleep(0.01)

    monkeypatch.setattr(ct, "load_model", load)
    hook = sys.unraisablehook
    assert invoke("evaluate", "atlas", "atlas:test") == (code, "Stopped.")
    assert sys.unraisablehook == hook


def test_a_stop_before_anything_is_done_promises_nothing(
    rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ct, "load_model", stopped)
    for command, out in (("score", "s.safetensors"), ("demo", "run")):
        rows = ("atlas", rows_file) if command == "score" else ("--only", "embedded")
        code, shown = invoke(command, *rows, "--out", tmp_path / out)
        assert code == 130
        assert shown == "Stopped before anything was finished; nothing is kept."
        assert not (tmp_path / out).exists()


def test_a_disk_that_is_full_elsewhere_is_one_sentence(
    rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "cache.arrow")

    monkeypatch.setattr(ct, "load_model", full)
    code, shown = invoke("evaluate", "atlas", rows_file)
    assert code == 2
    assert shown == (
        "Error: There is no room left on a disk ([Errno 28] No space left on device: "
        "'cache.arrow'); free some and start again."
    )


def _demo(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "culnig_tl", "demo", "--only", "embedded", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        # a shell's background jobs ignore ctrl-C, and so would what they start
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that was stopped with ctrl-C once, then run to its end."""
    out = tmp_path_factory.mktemp("demo") / "run"
    first = _demo(out)
    finished = out / "scores" / "cultural.safetensors"
    _wait_for(finished, first)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate()
    assert first.returncode == 130
    assert errors.splitlines()[-1].startswith("Stopped; what is finished is kept in")
    assert "Traceback" not in errors
    assert not list(out.rglob("*.part"))
    assert not (out / "table.csv").exists()

    written = finished.stat().st_mtime_ns
    second = _demo(out)
    shown, errors = second.communicate()
    assert second.returncode == 0, errors
    assert finished.stat().st_mtime_ns == written, "a finished stage is not made again"
    (out / "shown.txt").write_text(shown, encoding="utf-8")
    return out


def test_the_demo_prints_table_and_grade(demo_folder: Path) -> None:
    shown = (demo_folder / "shown.txt").read_text(encoding="utf-8")
    for expected in ("culture", *GENERAL_TASKS, "mean P", "precision"):
        assert expected in shown
    assert "no evidence about large models" in " ".join(shown.split())


def test_the_demo_writes_scores_neurons_table_and_report(demo_folder: Path) -> None:
    names = ["cultural", "control", "recognition"]
    scores = [ct.NeuronScores.load(demo_folder / f"scores/{name}.safetensors") for name in names]
    general = ct.NeuronSet.load(demo_folder / "neurons" / "general.json")
    assert general.neurons == ct.culture_general(*scores).neurons
    assert len(list((demo_folder / "neurons" / "specific").glob("*.json"))) == 16
    report = (demo_folder / "report.html").read_text(encoding="utf-8")
    assert "planted" in report
    assert len(list((demo_folder / "cards").iterdir())) == 6
    assert report.count("What it writes") == 6
    assert 'id="doses"' in report
    assert not list(demo_folder.rglob("*.part"))


def test_the_found_neurons_carry_culture_and_little_else(demo_folder: Path) -> None:
    """The bar of the shipped model, from the files of the demo."""
    table = pd.read_csv(demo_folder / "table.csv").set_index(["benchmark", "condition"])
    change, accuracy = table["change"], table["accuracy"]
    assert accuracy["culture", "original"] >= 90
    assert change["culture", "general"] <= -20
    assert change["culture", "random"] >= -5  # random sets may hold planted neurons
    assert table["p_value"]["culture", "general"] < 0.05
    for task in GENERAL_TASKS:
        assert accuracy[task, "original"] >= 90
        assert change[task, "general"] >= -3
