"""Everything that this package can say about whether a finding holds, for any model, in one folder.

The league of methods, faithfulness curves of the ranking by the recipe that is used, and how surely
each neuron belongs to the set; each stage keeps what it does and goes on from there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from culnig_tl.errors import check_number, check_seed
from culnig_tl.evaluation import Mode
from culnig_tl.files import RunFolder
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import Recipe, select_general
from culnig_tl.validation.contest import (
    Data,
    League,
    Scorer,
    check_data,
    keep_answers,
    league,
    selected,
)
from culnig_tl.validation.faithfulness import Faithfulness, faithfulness
from culnig_tl.validation.membership import Membership, membership

_SITES = ("mlp.hook_post",)


@dataclass(frozen=True)
class Validation:
    """What ``validate`` found out.

    Attributes:
        league: every way of finding neurons, on the same questions.
        faithfulness: curves of the first scorer's ranking by each recipe.
        membership: how surely each neuron is in the set.
    """

    league: League
    faithfulness: Faithfulness
    membership: Membership


def validate(
    model: HookedModel,
    data: Data,
    tests: Mapping[str, Rows],
    *,
    out: str | Path,
    scorers: Sequence[Scorer] | None = None,
    draws: int = 100,
    n_random: int = 5,
    mode: Mode = "argmax",
    token_budget: int = 8192,
    seed: int = 0,
    progress: bool = True,
) -> Validation:
    """League, faithfulness and membership of MLP neurons, with tables in a folder.

    Args:
        model: a model with named hook points.
        data: questions that find neurons, by role, as for ``league``.
        tests: held-out questions by name, some with cultures and some without.
        out: the folder; one that was stopped goes on from there.
        scorers: what competes in the league, as there; curves are of the first.
        draws: bootstrap resamples of the questions.
        n_random: random rankings beside each of the curves.
        mode: what counts as an answer, as in ``evaluate``.
        token_budget: tokens per pass; prepared questions have their own.
        seed: seed of all that is drawn.
        progress: show progress bars.

    Returns:
        The three; ``league.csv``, ``selectivity.csv``, ``faithfulness.csv``, ``areas.csv``,
        ``membership.csv`` and ``core.json`` (the neurons in at least 90 % of the resamples) lie in
        the folder.

    Raises:
        InvalidInputError: as the three do; before any pass.

    Example:
        >>> import tempfile, culnig_tl as ct
        >>> rows, test = (ct.load_benchmark("atlas", split=split, limit=16)
        ...               for split in ("identify", "test"))
        >>> general = ct.load_benchmark("atlas-commonsense", split="test", limit=16)
        >>> held = validate(ct.load_model(), {"cultural": rows}, {"culture": test,
        ...     "general": general}, out=tempfile.mkdtemp(), scorers=(Scorer(),), draws=3,
        ...     n_random=1, progress=False)
        >>> held.league.frame["recipe"].tolist()
        ['cultural']
    """
    check_number("draws", draws, low=1, whole=True)
    check_number("n_random", n_random, low=1, whole=True)
    check_seed(seed)
    check_data(data)
    ready = partial(prepare, model, token_budget=token_budget)
    rows = {role: ready(each) for role, each in data.items()}
    tested = {name: ready(each) for name, each in tests.items()}
    path = Path(out)
    compared = league(
        model,
        rows,
        tests=tested,
        scorers=scorers,
        mode=mode,
        out=path / "league",
        seed=seed,
        progress=progress,
    )
    first, its_scores = next(iter(compared.scores.items()))
    rankings = {
        recipe: selected(its_scores, recipe, 1.0, names_dropped=False)
        for recipe in first.recipes(rows)
    }
    with RunFolder(path, {"validation": 1, "model": model_fingerprint(model)}) as folder:
        sure = _membership(folder, model, rows, its_scores["cultural"], draws, seed, progress)
        curves = faithfulness(
            model,
            tested,
            rankings,
            n_random=n_random,
            mode=mode,
            seed=seed,
            keep=keep_answers(folder, model, tested, mode),
            progress=progress,
        )
        core = folder.file("core.json")
        if not core.exists() or NeuronSet.load(core) != sure.core():
            folder.lock()
            sure.core().save(core)
        for name, frame in {
            "league": compared.frame,
            "selectivity": compared.selectivity,
            "faithfulness": curves.frame,
            "areas": curves.areas,
            "membership": sure.frame,
        }.items():
            folder.csv(f"{name}.csv", frame)
    return Validation(compared, curves, sure)


def _membership(
    folder: RunFolder,
    model: HookedModel,
    rows: Mapping[str, PreparedQuestions],
    scores: NeuronScores,
    draws: int,
    seed: int,
    progress: bool,
) -> Membership:
    """Membership in the set of the selective recipe, or of the published one without general
    questions."""
    recipe: Recipe = "selective" if "general" in rows else "published"

    def select(**of_role: NeuronScores) -> NeuronSet:
        roles = (of_role.get(role) for role in ("control", "recognition", "general"))
        return select_general(of_role["cultural"], *roles, recipe=recipe, attention_top=0.0)

    def make() -> pd.DataFrame:
        return membership(
            model,
            rows["cultural"],
            rows.get("control"),
            rows.get("recognition"),
            rows.get("general"),
            select=select,
            draws=draws,
            seed=seed,
            sites=_SITES,
            progress=progress,
        ).frame

    identity = {
        "rows": {role: each.fingerprint for role, each in rows.items()},
        "recipe": recipe,
        "draws": draws,
        "seed": seed,
    }
    frame = folder.frame("membership.parquet", identity, make)
    neurons = NeuronSet.from_frame(
        frame[frame["selected"]][["site", "layer", "neuron"]],
        shapes=scores.shapes,
        source={"kind": "culture-general", "recipe": recipe},
    )
    return Membership(frame, neurons, draws)
