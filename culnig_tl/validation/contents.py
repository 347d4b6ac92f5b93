"""Do knowledge, norms and values share neurons? Sets found on several contents, held together.

Each *content* is a group of questions of its own (knowledge: BLEnD; norms: NormAd; values:
WorldValuesBench), with controls where there are any, and finds its set by the same rule.

*Overlap*: the Jaccard index of two sets, beside what chance and what the questions give (see
``validation.overlap``).

*Cross-effects*: each set scaled, and what that does to held-out questions of every content. Whether
a content needs its own set more than another's is asked on the same questions, draw by draw:
``less_than_own`` is its fall under its own set less its fall under this one.

Every row is scored once; a draw and a half are weighted sums. Memory: as ``membership``, for each
content.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.attribution import OwnMethod, Scoring
from culnig_tl.errors import (
    InvalidInputError,
    check_by_name,
    check_choice,
    check_number,
    check_seed,
)
from culnig_tl.evaluation import (
    LAYER_MATCHED,
    Condition,
    Keep,
    Mode,
    answers_under,
    rank_p_value,
    same_rows,
    warn,
)
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import check_intervention
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general, random_neurons
from culnig_tl.validation.changes import Change, paired_change, with_interval
from culnig_tl.validation.contest import Data, check_data
from culnig_tl.validation.contest.entrants import CLAMPED
from culnig_tl.validation.membership import resampled, scores_by_draw
from culnig_tl.validation.overlap import overlap_table
from culnig_tl.validation.stability import first_half

_ORIGINAL = "the model as it is"
_SPLITS = 4


@dataclass(frozen=True)
class Contents:
    """What sets found on different contents share, and what each does to the others.

    Attributes:
        overlap: one row per two contents: first, second, n_first, n_second, shared, jaccard (0 to
            1) with its interval over questions (``_low``, ``_high``), by_chance and p_value (see
            ``validation.overlap``), halves and own_halves.
        effects: one row per set and tested questions: masked, tested, n_neurons, n_prompts, n_units
            (topics, or questions where there are none), fall (of mean ``P(answer)``, relative) with
            its interval, random_fall (mean of the layer-matched sets) and p_value (rank of the fall
            among them), less_than_own with its interval (NaN where tested questions have no set, or
            this is it), change (of accuracy, in points) and probability_change.
        sets: the set of each content; ``ct.figures.overlap_matrix(result.sets)`` draws the overlap,
            ``ct.figures.culture_matrix(result.effects, value="probability_change", kin=())`` the
            effects.
    """

    overlap: pd.DataFrame
    effects: pd.DataFrame
    sets: Mapping[str, NeuronSet]


def compare_contents(
    model: HookedModel,
    data: Mapping[str, Data],
    tests: Mapping[str, Rows],
    *,
    select: Callable[..., NeuronSet] = culture_general,
    factor: float = 0.0,
    draws: int = 100,
    n_random: int = 5,
    sites: Sequence[str] = ("mlp.hook_post",),
    method: str | OwnMethod = "gradient_x_activation",
    pool: Literal["max", "sum", "absmax"] = "max",
    weight: Literal["probability", "none"] = "probability",
    mode: Mode = "argmax",
    token_budget: int = 8192,
    seed: int = 0,
    keep: Keep = lambda benchmark, condition, draw, make: make(),
    progress: bool = True,
) -> Contents:
    """Overlap and cross-effects of the sets that several contents find.

    Args:
        model: a model with named hook points.
        data: by content, the questions that find its set, by role: ``"cultural"``, and where there
            are any ``"control"``, ``"recognition"`` and ``"general"``; the last two are clamped.
        tests: held-out questions by name. Those under a content's name are what its set is for;
            others, such as general ones, are tested too.
        select: makes a set of scores, e.g. ``partial(culture_general, recipe="selective")``.
        factor: what activations are multiplied by.
        draws: resamples of the questions that find.
        n_random: layer-matched random sets beside each.
        sites, method, pool, weight: as in ``attribute``.
        mode: what counts as an answer, as in ``evaluate``.
        token_budget: tokens per pass; prepared questions have their own.
        seed: seed of all that is drawn.
        keep: where a set's answers come from, as in ``evaluation.answers_under``.
        progress: show progress bars.

    Raises:
        InvalidInputError: fewer than two contents, data without cultural questions, an unknown
            role, method or mode, numbers out of range, or rows that cannot be used; before any
            pass. Also a content of which nothing is selected.

    Warns:
        UserWarning: rows that test are among those that found.

    Example:
        >>> import culnig_tl as ct
        >>> def rows(split):
        ...     return {name: ct.load_benchmark(f"atlas-{name}", split=split, limit=16)
        ...             for name in ("ordering", "commonsense")}
        >>> found = {name: {"cultural": each} for name, each in rows("identify").items()}
        >>> contents = compare_contents(ct.load_model(), found, rows("test"), draws=3, n_random=1,
        ...                             progress=False)
        >>> contents.effects[["masked", "tested"]].values.tolist()[:2]
        [['ordering', 'ordering'], ['ordering', 'commonsense']]
    """
    _check(data, tests, draws, n_random, seed)
    check_choice("mode", mode, get_args(Mode))
    check_intervention(model, [], factor)
    scoring = {"sites": tuple(sites), "method": method, "pool": pool, "weight": weight}
    Scoring(**scoring).check(model)
    found = {
        content: {
            role: prepare(model, rows, token_budget=token_budget) for role, rows in of.items()
        }
        for content, of in data.items()
    }
    tested = {name: prepare(model, rows, token_budget=token_budget) for name, rows in tests.items()}
    selected = _selected(found, select, draws, seed, progress, scoring)
    sets = {content: of_draws[0] for content, of_draws in selected.items()}
    if empty := [content for content, neurons in sets.items() if not len(neurons)]:
        raise InvalidInputError(
            f"Nothing is selected on {', '.join(empty)}; take larger shares in select, or more "
            "questions."
        )
    warn(same_rows(sets.values(), tested))
    conditions = _conditions(model, sets, factor, n_random, seed)
    answered = answers_under(
        tested, conditions, mode=mode, progress="contents" if progress else False, keep=keep
    )
    return Contents(overlap_table(selected, draws), _effects(answered, sets, seed), sets)


def _check(
    data: Mapping[str, Data], tests: Mapping[str, Rows], draws: int, n_random: int, seed: int
) -> None:
    """Refuse what cannot be compared, before any pass."""
    check_by_name("data", data)
    check_by_name("tests", tests)
    for of_content in data.values():
        check_data(of_content)
    if len(data) < 2:
        raise InvalidInputError(
            f"There is nothing to compare with {len(data)} content; give the questions of at least "
            "two by name."
        )
    check_number("draws", draws, low=1, whole=True)
    check_number("n_random", n_random, low=1, whole=True)
    check_seed(seed)


def _selected(
    found: Mapping[str, Mapping[str, PreparedQuestions]],
    select: Callable[..., NeuronSet],
    draws: int,
    seed: int,
    progress: bool,
    scoring: Mapping[str, Any],
) -> dict[str, list[NeuronSet]]:
    """The sets of every content: of all its questions, of each resample, of halves in pairs."""
    weights = _weights(found, draws, seed)
    held: dict[tuple[str, bool], list[NeuronScores]] = {}

    def scores(content: str, role: str) -> list[NeuronScores]:
        """Data that several contents share are scored once."""
        prepared, clamp = found[content][role], role in CLAMPED
        key = prepared.fingerprint, clamp
        if key not in held:
            held[key] = scores_by_draw(
                prepared,
                weights[content, role],
                clamp=clamp,
                progress=f"{content}, {role}" if progress else False,
                **scoring,
            )
        return held[key]

    sets = {}
    for content, of_content in found.items():
        by_role = {role: scores(content, role) for role in of_content}
        sets[content] = [
            select(**dict(zip(by_role, of_draw, strict=True)))
            for of_draw in zip(*by_role.values(), strict=True)
        ]
    return sets


def _weights(
    found: Mapping[str, Mapping[str, PreparedQuestions]], draws: int, seed: int
) -> dict[tuple[str, str], Float[Tensor, "draw row"]]:
    """How often each row counts: in all, in each resample, in halves; an id counts alike in all
    contents."""
    data = {(content, role): rows for content, of in found.items() for role, rows in of.items()}
    ids = {" ".join(key): each.rows["id"][:] for key, each in data.items()}
    drawn = resampled(ids, draws, seed)
    pairs = [
        list(zip(each.rows["id"][:], each.rows["topic"][:], strict=True)) for each in data.values()
    ]
    firsts = [first_half(pairs, np.random.default_rng([seed, split])) for split in range(_SPLITS)]
    weights = {}
    for key in data:
        names = ids[" ".join(key)]
        in_first = torch.tensor([[float(name in first) for name in names] for first in firsts])
        halves = torch.stack([in_first, 1 - in_first], dim=1).flatten(0, 1)
        weights[key] = torch.cat([drawn[" ".join(key)], halves])
    return weights


def _conditions(
    model: HookedModel, sets: Mapping[str, NeuronSet], factor: float, n_random: int, seed: int
) -> list[Condition]:
    """The model as it is, each set, and layer-matched sets like each."""
    conditions = [Condition(_ORIGINAL)]
    for content, neurons in sets.items():
        matched = tuple(
            random_neurons(model, like=neurons, seed=seed + draw, layer_matched=True)
            for draw in range(n_random)
        )
        conditions.append(Condition(content, (neurons,), factor))
        conditions.append(Condition(f"{LAYER_MATCHED} {content}", matched, factor))
    return conditions


def _effects(answered: pd.DataFrame, sets: Mapping[str, NeuronSet], seed: int) -> pd.DataFrame:
    """The frame ``Contents.effects``."""
    frames = {
        (name, benchmark, draw): frame.reset_index(drop=True)
        for (name, benchmark, draw), frame in answered.groupby(
            ["condition", "benchmark", "draw"], sort=False
        )
    }
    tests = answered["benchmark"].unique()
    changes = {
        (masked, tested): _changes(frames, masked, tested, seed)
        for masked, tested in product(sets, tests)
    }
    return pd.DataFrame(
        [
            {
                "masked": masked,
                "tested": tested,
                "n_neurons": len(sets[masked]),
                "n_prompts": own.n_prompts,
                "n_units": own.n_units,
                **with_interval("fall", -own.gain, -own.gain_draws),
                "random_fall": float(np.mean(random)),
                "p_value": rank_p_value(-own.gain, np.array(random)),
                **_less_than_own(changes, masked, tested),
                "change": own.change,
                "probability_change": own.after - own.before,
            }
            for (masked, tested), (own, random) in changes.items()
        ]
    )


def _changes(
    frames: Mapping[Any, pd.DataFrame], masked: str, tested: str, seed: int
) -> tuple[Change, list[float]]:
    """What a set changes, and the falls of the layer-matched sets."""
    before = frames[_ORIGINAL, tested, 0]
    matched = (
        frame
        for (name, benchmark, _), frame in frames.items()
        if (name, benchmark) == (f"{LAYER_MATCHED} {masked}", tested)
    )
    falls = [1 - each["probability"].mean() / before["probability"].mean() for each in matched]
    return paired_change(before, frames[masked, tested, 0], seed=seed), falls


def _less_than_own(
    changes: Mapping[tuple[str, str], tuple[Change, list[float]]], masked: str, tested: str
) -> dict[str, float]:
    """The fall under the tested content's own set less that under this one."""
    this = changes[masked, tested][0]
    if masked == tested or (tested, tested) not in changes:
        return dict(_nothing("less_than_own"))
    own = changes[tested, tested][0]
    return with_interval("less_than_own", this.gain - own.gain, this.gain_draws - own.gain_draws)


def _nothing(name: str) -> Iterator[tuple[str, float]]:
    return ((f"{name}{end}", float("nan")) for end in ("", "_low", "_high"))
