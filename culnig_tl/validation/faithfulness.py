"""Does a ranking order neurons by what they do? Faithfulness curves.

The best n neurons of each ranking are taken away, or all others are:

* *deletion*: the best n are switched off; the sooner ``P(answer)`` falls, the better the ranking;
* *insertion*: every neuron of the pool but the best n is switched off; the sooner ``P`` comes back,
  the better. The pool: all neurons at every site that any of the rankings has neurons of.

Beside each ranking go random ones with as many neurons in each layer of each site (a larger random
set holds the smaller ones). Their mean and 2.5 to 97.5 % range are the *band*; the range of few of
them is nearly that from the least to the largest.

*Area*, of a ranking on a benchmark: with ``fall(n) = 1 - mean P / mean P of the model as it is``,

    deletion     mean over log n of  fall(n) - mean over random rankings of their fall(n)
    insertion    the same with the opposite sign

where the mean over ``log n`` is the trapezoidal integral from the smallest to the largest size over
``log(largest) - log(smallest)`` (of a single size: the value there). Positive: better than random;
0.3: over the sizes, ``P`` differs from that of random rankings by 30 % of what it was on average.

* Interval: in each bootstrap draw questions are drawn anew, and so are the random rankings. It says
  what this ranking does on other questions. Of 5 random rankings that differ far more than draws of
  questions do, it covers the truth in 89 % of cases, of 20 in 94 %.
* p-value: the rank of the ranking's area among the random ones; uniform where it is one more of
  them, and never below ``1 / (n_random + 1)``.

Neurons switched off together are no sum of neurons switched off alone, and a model with most
of its neurons off is far from what it was trained on: read insertion beside its band only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from culnig_tl.errors import (
    InvalidInputError,
    check_by_name,
    check_choice,
    check_number,
    check_numbers,
    check_seed,
)
from culnig_tl.evaluation import (
    NOTHING,
    Condition,
    Keep,
    Mode,
    answers_under,
    chance_warning,
    correct_of_original,
    interval,
    rank_p_value,
    relative_fall,
    resampled_falls,
    same_rows,
    summarise,
    warn,
)
from culnig_tl.hooked_model import HookedModel
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Rows, prepare
from culnig_tl.selection import random_neurons
from culnig_tl.sites import site_named, site_shape

_SIGNS = {"deletion": 1, "insertion": -1}
_ORIGINAL, _NONE_KEPT = "the model as it is", "the whole pool off"
_MEASURES = ["accuracy", "probability", "fall"]
_INTERVALS = [f"{name}{end}" for name in _MEASURES for end in ("", "_low", "_high")]
_CURVE = ["curve", "ranking", "benchmark"]


@dataclass(frozen=True)
class Faithfulness:
    """Curves of several rankings, and how far they lie from those of random ones.

    Attributes:
        frame: one row per curve (``"deletion"`` or ``"insertion"``), ranking, benchmark and
            n_neurons (switched off, or kept; 0 first: the model as it is, or the whole pool off):
            accuracy (the benchmark's measure, %), probability (mean ``P(answer)``, 0 to 1) and fall
            (of the probability, relative to the model as it is), each with its 95 % interval over
            questions (``_low``, ``_high``), and the random rankings' mean and range of each
            (``random_accuracy``, ``random_accuracy_low``, ...).
        areas: one row per curve, ranking and benchmark: area (between its fall and that of random
            rankings, see the module; positive is better), area_low, area_high, p_value (its rank
            among the random rankings), n_random and n_questions.
    """

    frame: pd.DataFrame
    areas: pd.DataFrame


def faithfulness(
    model: HookedModel,
    benchmarks: Mapping[str, Rows],
    rankings: Mapping[str, NeuronSet],
    *,
    sizes: Sequence[int] | None = None,
    n_random: int = 5,
    mode: Mode = "argmax",
    seed: int = 0,
    keep: Keep = lambda benchmark, condition, draw, make: make(),
    progress: bool = True,
) -> Faithfulness:
    """Answers with the best neurons of each ranking switched off, and with nothing else left.

    Args:
        model: any model with named hook points.
        benchmarks: questions, or prepared ones, by name, cultural and general.
        rankings: sets with scores by name, the largest score first: large sets, as
            ``ct.culture_general(scores, mlp_top=1.0, attention_top=0.0)`` makes of all MLP neurons.
        sizes: numbers of neurons, from 1 up; by default 1, 2, 5, 10, ... and the length of the
            shortest ranking.
        n_random: number of random rankings beside each.
        mode: as in ``evaluate``.
        seed: seed of the random rankings and of the bootstrap.
        keep: where a set's answers come from, as in ``evaluation.answers_under``; by default they
            are made.
        progress: show a progress bar.

    Returns:
        Curves and areas; ``ct.figures.faithfulness(result.frame)`` draws the curves.

    Raises:
        InvalidInputError: no benchmarks or rankings, a ranking without scores, sizes larger than a
            ranking, the same neurons under the names of two sites, numbers that are no whole
            numbers from 1 (a seed: from 0) up, an unknown mode, rows that cannot be used, or
            neurons outside the model; before the model answers.

    Warns:
        UserWarning: neurons that were found on a benchmark's very rows, or benchmarks at chance.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> curves = faithfulness(ct.load_model(), {"culture": rows},
        ...     {"planted": ct.answer_key("general")}, sizes=[1, 4], n_random=2, progress=False)
        >>> curves.areas["curve"].tolist()
        ['deletion', 'insertion']
    """
    check_by_name("benchmarks", benchmarks)
    _check_rankings(rankings)
    sizes = _usual_sizes(rankings) if sizes is None else _checked_sizes(sizes, rankings)
    check_number("n_random", n_random, low=1, whole=True)
    check_choice("mode", mode, get_args(Mode))
    check_seed(seed)
    tests = {name: prepare(model, rows, token_budget=16384) for name, rows in benchmarks.items()}
    steps = list(_steps(model, rankings, sizes, n_random, seed))
    conditions = {step.condition.name: step.condition for step in steps}
    answered = answers_under(
        tests,
        list(conditions.values()),
        mode=mode,
        progress="faithfulness" if progress else False,
        keep=keep,
    )
    warn(same_rows(rankings.values(), tests), chance_warning(tests, correct_of_original(answered)))
    plan = pd.DataFrame([step.row for step in steps])
    return Faithfulness(_curves(answered, plan, seed), _areas(answered, plan, seed))


def area_between(
    totals: Float[np.ndarray, "unit ranking size"],
    original: Float[np.ndarray, "unit"],
    sizes: Sequence[int],
    *,
    sign: int = 1,
    seed: int = 0,
) -> dict[str, float]:
    """Area between the fall of the first ranking and the mean of the others, which are random.

    Args:
        totals: ``P(answer)``, summed over the prompts of each question.
        original: the same of the model as it is.
        sizes: number of neurons of each column, ascending.
        sign: 1 where a larger fall is better (deletion), -1 where a smaller one is (insertion).
        seed: seed of the draws.

    Returns:
        area, area_low, area_high and p_value, as ``Faithfulness.areas`` has them.

    Example:
        >>> totals = np.array([[[0.5, 0.25], [1.0, 0.75]]] * 3)
        >>> area_between(totals, np.ones(3), [1, 10])["area"]
        0.5
    """
    n_units, n_rankings, n_sizes = totals.shape
    over_sizes = sign * _weights(sizes)
    columns = totals.reshape(n_units, -1)
    falls = relative_fall(columns.sum(0), original.sum(keepdims=True))
    areas = falls.reshape(n_rankings, n_sizes) @ over_sizes
    resampled = resampled_falls(columns, original, seed=seed)
    by_draw = resampled.reshape(-1, n_rankings, n_sizes) @ over_sizes
    n_random = n_rankings - 1
    counts = np.random.default_rng((seed, 1)).multinomial(
        n_random, np.full(n_random, 1 / n_random), size=len(by_draw)
    )
    ends = interval((by_draw[:, 0] - (counts * by_draw[:, 1:]).sum(1) / n_random)[:, None])
    return {
        "area": float(areas[0] - areas[1:].mean()),
        "area_low": float(ends[0, 0]),
        "area_high": float(ends[1, 0]),
        "p_value": rank_p_value(areas[0], areas[1:]),
    }


class _Step(NamedTuple):
    """One point of one curve: of a ranking (draw 0), or of a random one beside it (from 1)."""

    curve: str
    ranking: str
    draw: int
    n_neurons: int
    condition: Condition

    @property
    def row(self) -> dict[str, str | int]:
        """The step as a row of a table, its condition by name."""
        return {**self._asdict(), "condition": self.condition.name}


def _steps(
    model: HookedModel,
    rankings: Mapping[str, NeuronSet],
    sizes: Sequence[int],
    n_random: int,
    seed: int,
) -> Iterator[_Step]:
    """Every point of every curve, those of n = 0 shared by all rankings."""
    pool = _pool(model, rankings)
    original, none_kept = Condition(_ORIGINAL), Condition(_NONE_KEPT, (pool,), 0.0)
    for name, ranking in rankings.items():
        for draw, tops in enumerate(_nested_sets(model, ranking, sizes, n_random, seed)):
            yield _Step("deletion", name, draw, 0, original)
            yield _Step("insertion", name, draw, 0, none_kept)
            label = f"{name!r}, random {draw}" if draw else repr(name)
            for n_neurons, top in zip(sizes, tops, strict=True):
                deleted = Condition(f"{label}: {n_neurons} off", (top,), 0.0)
                inserted = Condition(f"{label}: {n_neurons} kept", (_rest(pool, top),), 0.0)
                yield _Step("deletion", name, draw, n_neurons, deleted)
                yield _Step("insertion", name, draw, n_neurons, inserted)


def _nested_sets(
    model: HookedModel, ranking: NeuronSet, sizes: Sequence[int], n_random: int, seed: int
) -> Iterator[list[NeuronSet]]:
    """The best neurons of a ranking by size, then those of each random ranking."""
    frame = ranking.to_frame()
    tops = [
        NeuronSet.from_frame(frame.head(size), shapes=ranking.shapes, source=ranking.source)
        for size in sizes
    ]
    yield tops
    for number in range(n_random):
        yield [
            random_neurons(model, like=top, seed=seed + number, layer_matched=True) for top in tops
        ]


def _pool(model: HookedModel, rankings: Mapping[str, NeuronSet]) -> NeuronSet:
    """Every neuron at the sites that rankings have neurons of."""
    sites = list(dict.fromkeys(site for each in rankings.values() for site in each.sites))
    by_neurons: dict[str, str] = {}
    for site in sites:
        other = by_neurons.setdefault(site_named(site).same_neurons_as or site, site)
        if other != site:
            raise InvalidInputError(
                f"The rankings name the same neurons at {other} and at {site}, so that what one "
                "keeps the other switches off; rank them at one of these sites."
            )
    shapes = {site: site_shape(model, site) for site in sites}
    return NeuronSet(
        {
            site: tuple((layer, index) for layer in range(n_layers) for index in range(width))
            for site, (n_layers, width) in shapes.items()
        },
        shapes=shapes,
    )


def _rest(pool: NeuronSet, top: NeuronSet) -> NeuronSet:
    """The pool without some neurons; sets of it share its pairs, so that many fit into memory."""
    neurons = {}
    for site in pool.sites:
        best = set(top[site])
        if rest := tuple(place for place in pool[site] if place not in best):
            neurons[site] = rest
    return NeuronSet(neurons, shapes=pool.shapes) if neurons else NOTHING


def _curves(answered: pd.DataFrame, plan: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Measures of every ranking at every size beside those of its random rankings."""
    by_condition = dict(iter(answered.groupby("condition", sort=False)))
    tables = []
    for _, steps in plan.groupby(["curve", "n_neurons"], sort=False):
        names = dict.fromkeys([_ORIGINAL, *steps["condition"]])
        answers = pd.concat([by_condition[name] for name in names])
        table = summarise(answers, seed=seed)[["benchmark", "condition", *_INTERVALS]]
        tables.append(steps.merge(table, on="condition"))
    table = pd.concat(tables)
    place = [*_CURVE, "n_neurons"]
    bands = _bands(table[table["draw"] > 0], place)
    frame = table.loc[table["draw"] == 0, [*place, *_INTERVALS]].merge(bands, on=place)
    in_order = [of_curve for _, of_curve in frame.groupby(_CURVE, sort=False)]
    return pd.concat(in_order, ignore_index=True)


def _bands(random: pd.DataFrame, place: list[str]) -> pd.DataFrame:
    """Mean and range of every measure over the random rankings of a place."""
    by_place = random.groupby(place)[_MEASURES]
    return pd.concat(
        [
            by_place.mean().add_prefix("random_"),
            by_place.quantile(0.025).add_prefix("random_").add_suffix("_low"),
            by_place.quantile(0.975).add_prefix("random_").add_suffix("_high"),
        ],
        axis=1,
    ).reset_index()


def _areas(answered: pd.DataFrame, plan: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The area of every curve."""
    totals = {
        name: answers.pivot_table("probability", ["id", "culture"], "condition", aggfunc="sum")
        for name, answers in answered.groupby("benchmark", sort=False)
    }
    rows = []
    for (curve, ranking), steps in plan[plan["n_neurons"] > 0].groupby(_CURVE[:2], sort=False):
        sizes = steps["n_neurons"].unique().tolist()
        for benchmark, of_benchmark in totals.items():
            values = of_benchmark[steps["condition"].tolist()].to_numpy(float)
            area = area_between(
                values.reshape(len(values), -1, len(sizes)),
                of_benchmark[_ORIGINAL].to_numpy(float),
                sizes,
                sign=_SIGNS[str(curve)],
                seed=seed,
            )
            place = dict(zip(_CURVE, (curve, ranking, benchmark), strict=True))
            n_random = int(steps["draw"].max())
            rows.append({**place, **area, "n_random": n_random, "n_questions": len(values)})
    return pd.DataFrame(rows)


def _weights(sizes: Sequence[int]) -> Float[np.ndarray, "size"]:
    """What each size counts for in a trapezoidal mean over the logarithm of the sizes."""
    if len(sizes) == 1:
        return np.ones(1)
    steps = np.diff(np.log(sizes)) / np.log(sizes[-1] / sizes[0])
    return (np.append(steps, 0.0) + np.append(0.0, steps)) / 2


def _check_rankings(rankings: Mapping[str, NeuronSet]) -> None:
    """Refuse what is no ranking: no set, an empty one, or one without a score for each neuron."""
    check_by_name("rankings", rankings)
    for name, ranking in rankings.items():
        if not isinstance(ranking, NeuronSet) or not len(ranking):
            raise InvalidInputError(
                f"Ranking {name!r} is {ranking!r:.60}; give a set of neurons with scores, as "
                "ct.culture_general makes it."
            )
        n_scored = int(np.isfinite(ranking.to_frame()["score"]).sum())
        if n_scored < len(ranking):
            raise InvalidInputError(
                f"{n_scored} of the {len(ranking)} neurons of ranking {name!r} have a score; give "
                "a set with a score for each, which says in which order they are taken."
            )


def _usual_sizes(rankings: Mapping[str, NeuronSet]) -> list[int]:
    """1, 2, 5, 10, 20, ... below the length of the shortest ranking, and that length."""
    most = min(map(len, rankings.values()))
    rounds = (first * 10**power for power in range(len(str(most))) for first in (1, 2, 5))
    return [size for size in rounds if size < most] + [most]


def _checked_sizes(sizes: Sequence[int], rankings: Mapping[str, NeuronSet]) -> list[int]:
    """Sizes in ascending order, none larger than a ranking."""
    check_numbers("sizes", sizes, low=1, distinct=True)
    for size in sizes:
        check_number("sizes", size, low=1, whole=True)
    name, shortest = min(rankings.items(), key=lambda entry: len(entry[1]))
    if max(sizes) > len(shortest):
        raise InvalidInputError(
            f"sizes go up to {max(sizes)}, and ranking {name!r} has {len(shortest)} neurons; give "
            "smaller sizes, or rank more neurons (a larger mlp_top)."
        )
    return sorted(map(int, sizes))
