"""A run: the whole method stage by stage, and its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from culnig_tl.attribution import OwnMethod, Scoring
from culnig_tl.errors import InvalidInputError, check_number, check_numbers
from culnig_tl.evaluation import (
    Breakers,
    Design,
    Mode,
    chance_warning,
    check_answerable,
    control_exceeds,
    correct_of_original,
    few_questions,
    no_general,
    one_culture,
    rows_in_common,
    summarise,
    warn,
    with_selectivity,
)
from culnig_tl.files import RunFolder
from culnig_tl.finetuning import FineTuningStudy
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import check_intervention
from culnig_tl.inspection import Continuations, NeuronCard
from culnig_tl.neurons import NeuronSet
from culnig_tl.pipeline.measuring import measure
from culnig_tl.pipeline.questions import RunQuestions
from culnig_tl.pipeline.scoring import score
from culnig_tl.pipeline.settings import (
    Settings,
    identity_of,
    open_run_folder,
    written_settings,
)
from culnig_tl.pipeline.stage import Stage
from culnig_tl.pipeline.stages import check_breakers, look_closer, save_table, select, with_unbroken
from culnig_tl.pipeline.work import Engine, usual_engine
from culnig_tl.questions import Rows
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import Recipe, SpecificRecipe, usual_attention_top
from culnig_tl.sites import DEFAULT_SITES


@dataclass(frozen=True, repr=False)
class Run:
    """The results of a run, and where they are kept.

    Attributes:
        out: the folder.
        settings: everything that the result depends on.
        scores: ``cultural``, ``control`` and ``recognition`` scores, and ``general`` ones of a
            selective run.
        general: culture-general neurons.
        specific: culture-specific neurons by culture.
        answers: one row per prompt and condition.
        table: accuracy, mean P(answer) and selectivity by benchmark and condition (see
            ``compare``).
        effects: culture x culture effects of the specific neurons (see ``culture_effects``).
        cards: everything about the best culture-general neurons, by their names.
        doses: what factors from 0 to 2 on the culture-general neurons do (see ``dose_response``).
        replies: what the model writes with and without the culture-general neurons, after three
            questions of each culture (see ``generate``).
        breakers: what ``breakers`` says of each set, by the set's name, where a benchmark is of
            general questions.
        warnings: sentences that a reader of the results must know (see ``evaluation.trust``).
    """

    out: Path
    settings: Mapping[str, Any]
    scores: Mapping[str, NeuronScores]
    general: NeuronSet
    specific: Mapping[str, NeuronSet]
    answers: pd.DataFrame
    table: pd.DataFrame
    effects: pd.DataFrame
    cards: Mapping[str, NeuronCard] = field(default_factory=dict)
    doses: pd.DataFrame = field(default_factory=pd.DataFrame)
    replies: Continuations | None = None
    breakers: Mapping[str, Breakers] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def __repr__(self) -> str:
        return "\n".join([self._line, *self._warning_lines])

    @property
    def _line(self) -> str:
        name = self.settings["model"]["name"]
        return (
            f"Run on {name} in {self.out}: {len(self.general)} culture-general neurons, specific "
            f"ones of {len(self.specific)} cultures, {self.table['benchmark'].nunique()} benchmarks"
        )

    @property
    def _warning_lines(self) -> list[str]:
        return [f"Warning: {each}" for each in self.warnings]

    def _repr_html_(self) -> str:
        from culnig_tl.html import described_table, paragraph

        warnings = "".join(map(paragraph, self._warning_lines))
        return warnings + described_table(self._line, self.table)

    def report(
        self,
        path: str | Path | None = None,
        *,
        cards: Mapping[str, NeuronCard] | None = None,
        membership: pd.DataFrame | None = None,
        finetuning: FineTuningStudy | None = None,
    ) -> Path:
        """Write one offline HTML page (``report.html`` in the run's folder by default).

        ``cards``, as ``inspect_neurons`` gives them, tell the whole story of more neurons than the
        run's own cards do. ``membership``, the frame of ``ct.membership`` or membership.csv of
        ``culnig-tl validate``, has every card say in what share of resamples of the questions its
        neuron is in the set. A run cannot say so itself: it keeps sums over questions, and
        ``ct.membership`` scores each question once more, which takes as long as the run's scoring.
        ``finetuning``, what ``ct.finetuning_study`` gives for the run's neurons, gets a section.
        """
        from culnig_tl.report import write_report

        path = Path(path) if path is not None else self.out / "report.html"
        return write_report(self, path, cards=cards, membership=membership, finetuning=finetuning)


def culnig(
    model: HookedModel,
    *,
    out: str | Path,
    cultural: Rows | None = None,
    control: Rows | None = None,
    recognition: Rows | None = None,
    general: Rows | None = None,
    benchmarks: Mapping[str, Rows] | None = None,
    culture_test: Rows | None = None,
    sites: Sequence[str] = DEFAULT_SITES,
    method: str | OwnMethod = "gradient_x_activation",
    recipe: Recipe = "published",
    specific_recipe: SpecificRecipe | None = None,
    mlp_top: float = 0.01,
    attention_top: float | None = None,
    recognition_top: float = 0.01,
    specific_top: float = 0.003,
    min_z: float = 0.5,
    factor: float | Sequence[float] = 0.0,
    n_random: int = 10,
    n_layer_matched: int = 0,
    random_design: Design = "full",
    mode: Mode = "argmax",
    n_cards: int = 12,
    token_budget: int = 8192,
    engine: Engine | None = None,
    progress: bool = True,
) -> Run:
    """Find culture neurons, switch them off, and measure what that does.

    Several processes do one run together when torchrun, ``accelerate launch`` or ``srun`` started
    them, each with the whole model and all with one folder; each returns the same run.

    Args:
        model: a frozen model with named hook points.
        out: the run's folder; a stopped run with the same settings is resumed.
        cultural: questions to identify with, or prepared ones; by default the embedded model's,
            and so for the others.
        control: the same rows without the question.
        recognition: the country-name control.
        general: general questions to identify with, asked in the same way as the cultural ones; for
            ``recipe="selective"``.
        benchmarks: questions to measure with, by name.
        culture_test: questions for the culture x culture effects; by default the first benchmark.
        sites: hook points to score.
        method: how neurons are scored, as in ``attribute``.
        recipe: ``"selective"`` subtracts what general questions need (see ``culture_general``), and
            measures the published rule's neurons beside.
        specific_recipe: the rule of the culture-specific neurons, as in ``culture_specific``:
            ``"contrast"`` finds those that are one culture's own; None takes that of ``recipe``.
        mlp_top, attention_top, recognition_top: shares of ``culture_general``.
        specific_top, min_z: share and z-score of ``culture_specific``.
        factor: what selected neurons are multiplied by; 0 suppresses. Of several factors the first
            is that of the culture x culture effects and of the report's text.
        n_random: number of random sets.
        n_layer_matched: number of random sets with as many neurons in each layer.
        random_design: ``"split"`` has the random sets of each kind share a benchmark's questions,
            so that ten sets cost one evaluation; ``"full"``, as published, has each answer all.
        mode: what counts as an answer, as in ``evaluate``.
        n_cards: how many of the best culture-general neurons get a whole card. Their cost is one
            forward and backward pass and ``1 + n_cards`` forward passes over at most 64 cultural
            prompts, and a backward pass over 12 prompts a card. With them come the dose response, 7
            forward passes over at most 24 prompts of each benchmark, and replies of 12 tokens to
            three questions of each culture, two each. 0 leaves all of it out. No other stage
            depends on it.
        token_budget: tokens per pass, padding counted; prepared questions have their own.
        engine: who does the work; by default the processes that were launched together, or this
            one alone. ``ct.OnRay`` has a Ray cluster do it.
        progress: show progress bars.

    Raises:
        InvalidInputError: rows that cannot be used, a number that is not finite or out of range, an
            unknown choice, no benchmarks, or a folder with a run of other settings or other scores.
            All but what a folder holds is refused before the model runs, and before the folder is
            touched.
        UnwritableError: the folder cannot be written.
        MissingFileError: files of the run were deleted while it ran.

    Warns:
        UserWarning: rows that test are among those that found, benchmarks at chance, or a control
            that scores higher than the questions. These and others stand in ``Run.warnings``.

    Example:
        >>> import tempfile, culnig_tl as ct
        >>> rows, control = (ct.load_benchmark(name, split="identify", limit=64)
        ...                  for name in ("atlas", "atlas-control"))
        >>> test = ct.load_benchmark("atlas", split="test", limit=64)
        >>> run = culnig(ct.load_model(), out=tempfile.mkdtemp(), cultural=rows, control=control,
        ...              benchmarks={"culture": test}, n_random=1, progress=False)
        >>> run.table["condition"].tolist()
        ['original', 'general', 'random']
    """
    check_number("n_cards", n_cards, low=0, whole=True)
    if (recipe == "selective") != (general is not None):
        raise InvalidInputError(
            f"recipe is {recipe!r} and there are {'no ' if general is None else ''}general "
            "questions to identify with; recipe='selective' and general= go together."
        )
    settings = Settings(
        sites=tuple(sites),
        method=method,
        mlp_top=mlp_top,
        attention_top=usual_attention_top(recipe) if attention_top is None else attention_top,
        recipe=recipe,
        specific_recipe=None if specific_recipe == recipe else specific_recipe,
        recognition_top=recognition_top,
        specific_top=specific_top,
        min_z=min_z,
        factor=_factors(factor),
        n_random=n_random,
        n_layer_matched=n_layer_matched,
        mode=mode,
        random_design=random_design,
    )
    questions = RunQuestions.of(
        model,
        cultural=cultural,
        control=control,
        recognition=recognition,
        general=general,
        benchmarks=benchmarks,
        culture_test=culture_test,
        token_budget=token_budget,
    )
    _check_run(model, settings, questions)
    shared_rows = _rows_in_common(questions)
    warn(shared_rows)
    written = written_settings(model, settings, questions)
    with (
        usual_engine() if engine is None else engine as engine,
        RunFolder(out, identity_of(written)) as folder,
    ):
        engine.first(lambda: open_run_folder(folder, written))
        run = _run(Stage(folder, model, settings, questions, engine, progress), written, n_cards)
        engine.first(folder.check_complete)
    at_chance = chance_warning(questions.tests, correct_of_original(run.answers))
    control_above = control_exceeds(run.scores["cultural"], run.scores["control"])
    warn(at_chance, control_above)
    sentences = [
        *(f"“{name}”: {each.warning}" for name, each in run.breakers.items() if each.warning),
        shared_rows,
        at_chance,
        control_above,
        few_questions(questions.tests),
        no_general(questions.tests),
        one_culture(questions.data["cultural"].cultures),
    ]
    return replace(run, warnings=tuple(filter(None, sentences)))


def _run(stage: Stage, written: Mapping[str, Any], n_cards: int) -> Run:
    """One stage after the other."""
    scores = score(stage)
    sets, specific = select(stage, scores)
    selected = sets["general"]
    checked = check_breakers(stage, sets)
    answers, effects = measure(stage, with_unbroken(sets, checked), specific)
    table = with_selectivity(summarise(answers), answers)
    save_table(stage, "table.csv", table)
    save_table(stage, "culture_effects.csv", effects)
    run = Run(
        stage.folder.path,
        written,
        scores,
        selected,
        specific,
        answers,
        table,
        effects,
        breakers=checked,
    )
    if not n_cards or not len(selected):
        return run
    cards, doses, replies = look_closer(stage, scores, selected, n_cards)
    save_table(stage, "doses.csv", doses)
    return replace(run, cards=cards, doses=doses, replies=replies)


def _factors(factor: Any) -> tuple[float, ...]:
    """One factor or several, as the settings of a run hold them."""
    factors = [factor] if isinstance(factor, Real | str) else factor
    check_numbers("factor", factors, distinct=True)
    return tuple(float(each) + 0.0 for each in factors)  # no "-0"


def _check_run(model: HookedModel, settings: Settings, questions: RunQuestions) -> None:
    """Refuse what a stage would refuse when those before it have taken their time."""
    Scoring(sites=settings.sites, method=settings.method).check(model)
    for factor in settings.factor:
        check_intervention(model, [], factor)
    for prepared in (*questions.tests.values(), questions.culture_test):
        check_answerable(prepared, settings.mode)


def _rows_in_common(questions: RunQuestions) -> str:
    """Which rows that test find neurons as well."""
    tests = dict(questions.tests)
    if all(questions.culture_test is not prepared for prepared in tests.values()):
        tests["culture x culture"] = questions.culture_test
    return rows_in_common(questions.data["cultural"], tests)
