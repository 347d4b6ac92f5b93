"""The stages of a run, one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from datasets import Dataset

from culnig_tl.attribution import refuse_company
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import Mode, culture_effects, summarise
from culnig_tl.hooks import DEFAULT_SITES, HookedModel
from culnig_tl.pipeline.closer import best_of, cards_of, doses_of
from culnig_tl.pipeline.run import Run
from culnig_tl.pipeline.settings import atlas_benchmarks, atlas_rows, chosen, claim, met
from culnig_tl.pipeline.stages import (
    answers_of,
    conditions_of,
    file_name,
    kept,
    scores_of,
    write_csv,
)
from culnig_tl.questions import questions
from culnig_tl.selection import culture_general, culture_specific


def culnig(
    model: HookedModel,
    *,
    out: str | Path,
    cultural: Dataset | None = None,
    control: Dataset | None = None,
    recognition: Dataset | None = None,
    benchmarks: Mapping[str, Dataset] | None = None,
    culture_test: Dataset | None = None,
    sites: Sequence[str] = DEFAULT_SITES,
    mlp_top: float = 0.01,
    attention_top: float = 0.002,
    recognition_top: float = 0.01,
    specific_top: float = 0.003,
    min_z: float = 0.5,
    factor: float | Sequence[float] = 0.0,
    n_random: int = 10,
    n_layer_matched: int = 0,
    mode: Mode = "argmax",
    n_cards: int = 12,
    token_budget: int = 8192,
    progress: bool = True,
) -> Run:
    """Find culture neurons, switch them off, and measure what that does.

    Args:
        model: a frozen model with named hook points.
        out: the run's folder; a stopped run with the same settings is resumed.
        cultural: questions to identify with; by default the embedded model's, and so for the
            others.
        control: the same rows without the question.
        recognition: the country-name control.
        benchmarks: questions to measure with, by name.
        culture_test: questions for the culture x culture effects; by default the first benchmark.
        sites: hook points to score.
        mlp_top, attention_top, recognition_top: shares of ``culture_general``.
        specific_top, min_z: share and z-score of ``culture_specific``.
        factor: what selected neurons are multiplied by; 0 suppresses. Of several factors the first
            is that of the culture x culture effects and of the report's text.
        n_random: number of random sets.
        n_layer_matched: number of random sets with as many neurons in each layer.
        mode: what counts as an answer, as in ``evaluate``.
        n_cards: how many of the best culture-general neurons get a whole card. Their cost is one
            forward and backward pass and ``1 + n_cards`` forward passes over at most 96 cultural
            prompts, and a backward pass over 12 prompts a card; the dose response that comes with
            them takes 7 forward passes over at most 48 prompts of each benchmark. 0 leaves both
            out. No other stage depends on it.
        token_budget: tokens a batch, padding counted.
        progress: show progress bars.

    Raises:
        InvalidInputError: rows that cannot be used, a number of cards below 0, a folder with a run
            of other settings or other scores, or several processes.
        UnwritableError: the folder cannot be written.

    Example:
        >>> import tempfile, culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> run = culnig(ct.load_model(), out=tempfile.mkdtemp(), cultural=rows, control=rows,
        ...              benchmarks={"culture": rows}, n_random=1, progress=False)
        >>> run.table["condition"].tolist()
        ['original', 'general', 'random']
    """
    refuse_company()
    out = Path(out)
    if n_cards < 0:
        raise InvalidInputError(f"n_cards is {n_cards}; give a number of cards from 0 up.")
    own = {"cultural": cultural, "control": control, "recognition": recognition}
    data = {
        role: atlas_rows(role) if rows is None else questions(rows) for role, rows in own.items()
    }
    tests = {name: questions(rows) for name, rows in (benchmarks or atlas_benchmarks()).items()}
    culture_test = questions(culture_test) if culture_test else next(iter(tests.values()))
    settings = chosen(
        sites=sites,
        mlp_top=mlp_top,
        attention_top=attention_top,
        recognition_top=recognition_top,
        specific_top=specific_top,
        min_z=min_z,
        factor=factor,
        n_random=n_random,
        n_layer_matched=n_layer_matched,
        mode=mode,
    ) | met(model, data, tests, culture_test)
    claim(out, settings)

    scores = scores_of(out / "scores", model, data, settings, token_budget, progress)
    general = culture_general(
        *scores.values(), **settings["general"], recognition_top=recognition_top
    )
    general.save(out / "neurons" / "general.json")
    specific = {
        culture: culture_specific(
            *scores.values(),
            culture=culture,
            **settings["specific"],
            recognition_top=recognition_top,
        )
        for culture in scores["cultural"].cultures
        if culture in scores["recognition"].cultures
    }
    for culture, neurons in specific.items():
        neurons.save(out / "neurons" / "specific" / f"{file_name(culture)}.json")

    factors = [settings["factor"], *settings["more_factors"]]
    conditions = conditions_of(model, general, factors, n_random, n_layer_matched)
    found = answers_of(out / "answers", model, tests, conditions, mode, token_budget, progress)
    effects = kept(
        out / "answers" / "culture_effects.parquet",
        lambda: culture_effects(
            model, culture_test, specific, factor=factors[0], mode=mode, progress=progress
        ),
    )
    table = summarise(found)
    write_csv(out / "table.csv", table)
    write_csv(out / "culture_effects.csv", effects)
    run = Run(out, settings, scores, general, specific, found, table, effects)
    if not n_cards or not len(general):
        return run
    cards = cards_of(
        out / "cards",
        model,
        data["cultural"],
        best_of(general, n_cards),
        scores=scores,
        sites=sites,
        token_budget=token_budget,
        progress=progress,
    )
    doses = doses_of(
        out / "answers" / "doses.parquet",
        model,
        tests,
        general,
        mode=mode,
        token_budget=token_budget,
        progress=progress,
    )
    write_csv(out / "doses.csv", doses)
    return replace(run, cards=cards, doses=doses)
