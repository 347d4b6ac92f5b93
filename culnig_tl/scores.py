"""From scores of questions to scores of a data set.

    S_c(D) = sum of s over the prompts of culture c in D, divided by N(D)
    S(D)   = sum over c of S_c(D)

``N(D)`` is the number of distinct question ids, the same for every culture; variants of one
question share its id and are summed (arXiv 2510.08284). Sums are kept in float64 (float32 on
devices without it), so the order of the batches does not show; the result has the precision of the
scores (float32, or float64 for a float64 model). Memory: cultures x layers x neurons
per site.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import (
    InvalidInputError,
    UnknownNameError,
    check_by_name,
    check_number,
    check_some,
)
from culnig_tl.files import Format, read_tensors, write_tensors
from culnig_tl.neurons import Neuron
from culnig_tl.sites import SITES, site_named

if TYPE_CHECKING:
    from culnig_tl.hooked_model import HookedModel

_FORMAT = Format(
    "culnig_tl.NeuronScores",
    2,
    noun="file of neuron scores",
    writer="NeuronScores.save",
    checked_from=2,
)


@dataclass(frozen=True, repr=False)
class NeuronScores:
    """Scores of every neuron for every culture.

    Attributes:
        values: ``S_c(D)`` by site, in units of probability.
        cultures: the culture axis, in order of first appearance.
        n_questions: ``N(D)``, the number of distinct question ids.
        n_prompts: number of prompts of each culture.
        source: how the scores came about: method, pool, fingerprints of model and data, versions.

    Raises:
        InvalidInputError: scores that are not finite, or numbers that do not fit together.
    """

    values: Mapping[str, Float[Tensor, "culture layer neuron"]]
    cultures: tuple[str, ...]
    n_questions: int
    n_prompts: tuple[int, ...]
    source: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_by_name("values", self.values)
        check_some("cultures", self.cultures)
        check_number("n_questions", self.n_questions, low=0, whole=True)
        for number in self.n_prompts:
            check_number("n_prompts", number, low=0, whole=True)
        n_texts = len({each for each in self.cultures if isinstance(each, str)})
        if not n_texts == len(self.cultures) == len(self.n_prompts):
            raise InvalidInputError(
                f"There are {len(self.cultures)} cultures, {n_texts} different texts among them, "
                f"and {len(self.n_prompts)} numbers of prompts; give each culture's name once, and "
                "one number for each."
            )
        for site, values in self.values.items():
            _check_values(site, values, len(self.cultures))
        self.check_finite()

    def check_finite(self) -> None:
        """Refuse scores that cannot be ranked; tensors may have been written into since.

        Raises:
            InvalidInputError: scores that are NaN or infinite; they are counted.
        """
        for site, values in self.values.items():
            if n_broken := int((~values.isfinite()).sum()):
                raise InvalidInputError(
                    f"{n_broken} of {values.numel()} scores at {site} are not finite numbers and "
                    "cannot be ranked; score the questions again, in float32 where it was float16."
                )

    def __repr__(self) -> str:
        model = self.source.get("model_name")
        sites = ", ".join(
            f"{SITES[site].plain_name if site in SITES else site} {layers} x {width:,}"
            for site, (layers, width) in self.shapes.items()
        )
        return (
            f"Scores{f' of {model}' if model else ''} on {self.n_questions} questions, "
            f"{len(self.cultures)} cultures: {sites}{self._completeness_text}"
        )

    @property
    def _completeness_text(self) -> str:
        if self.completeness is None:
            return ""
        return f"; sums of integrated gradients are {100 * self.completeness:.1f} % off"

    def _repr_html_(self) -> str:
        from culnig_tl.html import described_table

        return described_table(repr(self), self.to_frame(top=20))

    @property
    def sites(self) -> tuple[str, ...]:
        """The scored sites."""
        return tuple(self.values)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(layers, neurons per layer) of each site."""
        return {site: (value.shape[1], value.shape[2]) for site, value in self.values.items()}

    @property
    def completeness_by_site(self) -> dict[str, float]:
        """How far integrated gradients are from adding up, by site; empty for other methods.

        Summed over questions, ``|sum of IG - (T(1) - T(0))|`` over ``|T(1) - T(0)|`` along the path
        from factor 0 to 1, where ``T`` is the target; by layer, that of the worst layer.
        """
        figures = self.source.get("completeness", {})
        return {site: max(of_paths) for site, of_paths in figures.items()}

    @property
    def completeness(self) -> float | None:
        """The worst of ``completeness_by_site``; 0 is perfect, above 0.05 there was a warning. None
        for methods other than integrated gradients."""
        return max(self.completeness_by_site.values(), default=None)

    def per_prompt(self, site: str, culture: str | None = None) -> Float[Tensor, "layer neuron"]:
        """Mean score of a prompt at a site, of one culture or of all.

        Raises:
            UnknownNameError: these scores have no such culture.
        """
        if culture is None:
            return self.total(site) * (self.n_questions / sum(self.n_prompts))
        scores = self.of_culture(site, culture)
        return scores * (self.n_questions / self.n_prompts[self.cultures.index(culture)])

    def answer_scale(self, culture: str | None = None) -> float:
        """What a prompt's score is a share of: the mean of ``P(y|x)`` squared for scores weighted
        by it, else of ``P(y|x)``; of one culture or of all.

        Raises:
            InvalidInputError: scores that do not say how likely the answers were, or of another
                target than the probability.
        """
        means = self.source.get("mean_probability")
        if means is None or self.source.get("target", "probability") != "probability":
            raise InvalidInputError(
                "These scores do not say what they are a share of: they were made by an earlier "
                "version or of another target than the probability; score the questions again "
                "with target='probability', or take normalise='none'."
            )
        power = 1 if self.source.get("weight") == "probability" else 0
        if culture is not None:
            return _positive(means[self.cultures.index(culture)][power])
        of_cultures = zip(means, self.n_prompts, strict=True)
        total = sum(mean[power] * n for mean, n in of_cultures)
        return _positive(total / sum(self.n_prompts))

    def total(self, site: str) -> Float[Tensor, "layer neuron"]:
        """``S(D)`` at a site, summed over cultures."""
        return self.values[site].sum(0)

    def of_culture(self, site: str, culture: str) -> Float[Tensor, "layer neuron"]:
        """``S_c(D)`` at a site.

        Raises:
            UnknownNameError: these scores have no such culture.
        """
        if culture not in self.cultures:
            raise UnknownNameError(
                f"There are no scores of culture {culture!r}; these scores have "
                f"{', '.join(self.cultures)}."
            )
        return self.values[site][self.cultures.index(culture)]

    def to_frame(self, *, top: int = 100) -> pd.DataFrame:
        """The ``top`` neurons by ``S(D)``: columns site, layer, neuron, score."""
        frames = []
        for site in self.sites:
            total = self.total(site)
            best = total.flatten().argsort(descending=True, stable=True)[:top]
            frames.append(
                pd.DataFrame(
                    {
                        "site": site,
                        "layer": (best // total.shape[1]).tolist(),
                        "neuron": (best % total.shape[1]).tolist(),
                        "score": total.flatten()[best].tolist(),
                    }
                )
            )
        frame = pd.concat(frames, ignore_index=True)
        return frame.sort_values("score", ascending=False, kind="stable", ignore_index=True).head(
            top
        )

    def rank_of(self, neuron: Neuron | str) -> tuple[int, int]:
        """Place of a neuron by ``S(D)`` among those it is ranked with, and how many these are.

        They are the scored neurons of its pool (MLP; q, k and v), each under one name only: two
        MLP sites are not ranked together. Equal scores share the better place.

        Raises:
            UnknownNameError: its site is not scored.

        Example:
            >>> import culnig_tl as ct
            >>> rows = ct.load_benchmark("atlas", split="identify", limit=8)
            >>> ct.attribute(ct.load_model(), rows, progress=False).rank_of("L1.attn.hook_q.5")[1]
            1536
        """
        site, layer, index = Neuron.of(neuron)
        if site not in self.values:
            raise UnknownNameError(
                f"There are no scores of {site}; these scores have {', '.join(self.sites)}."
            )
        pool = [
            self.total(each).flatten() for each in self.sites if _are_ranked_together(each, site)
        ]
        value = self.total(site)[layer, index]
        return sum(int((totals > value).sum()) for totals in pool) + 1, sum(map(len, pool))

    def save(self, path: str | Path) -> None:
        """Write as safetensors with a JSON header and a checksum, whole or not at all."""
        header = {
            "cultures": self.cultures,
            "n_questions": self.n_questions,
            "n_prompts": self.n_prompts,
            "source": dict(self.source),
        }
        write_tensors(path, _FORMAT, self.values, header)

    @classmethod
    def load(cls, path: str | Path) -> "NeuronScores":
        """Read scores that ``save`` wrote.

        Raises:
            MissingFileError: there is no such file.
            InvalidInputError: the file holds something else, or scores of a newer version.
            DamagedFileError: the file was changed after it was written.
        """
        path = Path(path)
        tensors, header = read_tensors(path, _FORMAT)
        _FORMAT.check_fields(
            path, header, cultures=list, n_questions=int, n_prompts=list, source=dict
        )
        sites = header["source"].get("sites", sorted(tensors))
        try:
            if sorted(sites) != sorted(tensors):
                raise InvalidInputError(f"its sites are {sites}, and it has {sorted(tensors)}")
            return cls(
                values={site: tensors[site] for site in sites},
                cultures=tuple(header["cultures"]),
                n_questions=header["n_questions"],
                n_prompts=tuple(header["n_prompts"]),
                source=header["source"],
            )
        except (TypeError, InvalidInputError) as error:
            raise _FORMAT.unusable(path, error) from error

    def to_culnig_json(
        self, path: str | Path, *, dataset: str = "blend", ids: Iterable[str] | None = None
    ) -> None:
        """Write the scores for the authors' code (see ``culnig_json``), whole or not at all.

        The file is an order of magnitude larger than that of ``save``.

        Args:
            path: the file.
            dataset: what that code calls the data set: ``"blend"``, ``"blendcontrol"``,
                ``"countryrc"``.
            ids: the distinct question ids; without them they are numbered, which is enough for
                that code's selection.

        Raises:
            InvalidInputError: a site that has no name there, or a number of ids that is not
                ``n_questions``.
        """
        from culnig_tl.culnig_json import write_scores

        write_scores(self, path, dataset=dataset, ids=ids)

    @classmethod
    def from_culnig_json(cls, path: str | Path, model: "HookedModel") -> "NeuronScores":
        """Read scores that the authors' code wrote (see ``culnig_json``); ``n_prompts`` is 0, since
        the file does not say.

        Args:
            path: the file.
            model: the model it belongs to, which tells the parts of fused layers apart.

        Raises:
            MissingFileError: there is no such file.
            InvalidInputError: the file holds no scores, or not those of every neuron of a module.
        """
        from culnig_tl.culnig_json import read_scores

        return read_scores(path, model)


def _positive(scale: float) -> float:
    """A mean that scores can be divided by."""
    if not scale > 0:
        raise InvalidInputError(
            f"The mean probability of these answers is {scale}, and a score cannot be a share of "
            "that; take questions that the model can answer, or normalise='none'."
        )
    return scale


def _are_ranked_together(site: str, other: str) -> bool:
    """Whether two sites are of one pool, and not two names of the same neurons."""
    if site == other:
        return True
    first, second = site_named(site), site_named(other)
    neurons = first.same_neurons_as or first.name, second.same_neurons_as or second.name
    return first.pool == second.pool and neurons[0] != neurons[1]


def _check_values(site: str, values: Tensor, n_cultures: int) -> None:
    if values.ndim != 3 or len(values) != n_cultures or not values.is_floating_point():
        raise InvalidInputError(
            f"values of {site} are of shape {tuple(values.shape)} and type {values.dtype}; give "
            f"decimal numbers by culture ({n_cultures}), layer and neuron."
        )


@dataclass(frozen=True)
class ScoreSums:
    """What an accumulator holds at some moment.

    Attributes:
        sums: sums of scores by site, in float64.
        cultures: the culture axis.
        n_prompts: number of prompts of each culture.
        ids: the distinct question ids.
        dtype: type of the scores that were added, and of those that come out.
        gaps: sums of error and change of each path of integrated gradients, by site.
        moments: sums of ``P(y|x)`` and of its square over the prompts of each culture.
    """

    sums: Mapping[str, Float[Tensor, "culture layer neuron"]]
    cultures: tuple[str, ...]
    n_prompts: tuple[int, ...]
    ids: tuple[str, ...]
    dtype: torch.dtype
    gaps: Mapping[str, Float[Tensor, "path 2"]] = field(default_factory=dict)
    moments: Float[Tensor, "culture 2"] = field(
        default_factory=lambda: torch.zeros(0, 2, dtype=torch.float64)
    )


class ScoreAccumulator:
    """Sums scores of questions into scores of cultures, batch by batch.

    Args:
        cultures: the culture axis, where it is known beforehand; others are appended as they
            appear.
    """

    def __init__(self, cultures: Iterable[str] = ()) -> None:
        self._index = {culture: i for i, culture in enumerate(dict.fromkeys(cultures))}
        self._sums: dict[str, Tensor] = {}
        self._n_prompts: list[int] = [0] * len(self._index)
        self._ids: dict[str, None] = {}
        self._dtype = torch.float32
        self._gaps: dict[str, Tensor] = {}
        self._moments = torch.zeros(len(self._index), 2, dtype=torch.float64)

    @classmethod
    def of(cls, held: ScoreSums) -> "ScoreAccumulator":
        """An accumulator that goes on from what another one held."""
        accumulator = cls(held.cultures)
        accumulator._sums = {site: sums.clone() for site, sums in held.sums.items()}
        accumulator._n_prompts = list(held.n_prompts)
        accumulator._ids = dict.fromkeys(held.ids)
        accumulator._dtype = held.dtype
        accumulator._gaps = dict(held.gaps)
        accumulator._moments = held.moments.clone()
        return accumulator

    def held(self) -> ScoreSums:
        """The sums so far, not copied."""
        return ScoreSums(
            sums=dict(self._sums),
            cultures=tuple(self._index),
            n_prompts=tuple(self._n_prompts),
            ids=tuple(self._ids),
            dtype=self._dtype,
            gaps=dict(self._gaps),
            moments=self._moments,
        )

    def update(
        self,
        scores: Mapping[str, Float[Tensor, "batch layer neuron"]],
        *,
        cultures: Sequence[str],
        ids: Sequence[str],
        gaps: Mapping[str, Float[Tensor, "batch path 2"]] | None = None,
        probability: Float[Tensor, "batch"] | None = None,
    ) -> None:
        """Add the scores of a batch, ``P(y|x)`` of its prompts, and what integrated gradients miss
        in it."""
        for culture in cultures:
            if culture not in self._index:
                self._index[culture] = len(self._index)
                self._n_prompts.append(0)
            self._n_prompts[self._index[culture]] += 1
        self._ids.update(dict.fromkeys(ids))
        for site, values in scores.items():
            self._add(site, values, [self._index[culture] for culture in cultures])
        add_gaps(self._gaps, gaps or {})
        if probability is not None:
            self._add_moments(probability, [self._index[culture] for culture in cultures])

    def join(self, other: ScoreSums) -> None:
        """Add what another accumulator with the same cultures held."""
        for site, sums in other.sums.items():
            self._sums[site] = self._sums[site] + sums
        self._n_prompts = [a + b for a, b in zip(self._n_prompts, other.n_prompts, strict=True)]
        self._ids.update(dict.fromkeys(other.ids))
        add_gaps(self._gaps, {site: gaps[None] for site, gaps in other.gaps.items()})
        self._moments = self._moments + other.moments

    def finish(self, **source: Any) -> NeuronScores:
        """The scores of the data set; ``source`` says how they came about.

        Raises:
            InvalidInputError: nothing was added.
        """
        if not self._sums:
            raise InvalidInputError("There are no scores yet; update with at least one batch.")
        return NeuronScores(
            values={
                site: (sums / len(self._ids)).to(self._dtype).cpu()
                for site, sums in self._sums.items()
            },
            cultures=tuple(self._index),
            n_questions=len(self._ids),
            n_prompts=tuple(self._n_prompts),
            source={"sites": list(self._sums), **source, **self._completeness, **self._means},
        )

    @property
    def _completeness(self) -> dict[str, Any]:
        return {"completeness": completeness_of(self._gaps)} if self._gaps else {}

    @property
    def _means(self) -> dict[str, Any]:
        """Mean of ``P(y|x)`` and of its square by culture; nothing where no one gave them."""
        if not self._moments.any():
            return {}
        n_prompts = torch.tensor(self._n_prompts, dtype=torch.float64)
        means = self._moments / n_prompts[:, None].clamp(min=1)  # of no prompts: 0
        return {"mean_probability": means.tolist()}

    def _add_moments(self, probability: Tensor, index: list[int]) -> None:
        missing = len(self._index) - len(self._moments)
        self._moments = torch.cat([self._moments, self._moments.new_zeros((missing, 2))])
        exact = probability.detach().cpu().double()
        for line, culture in enumerate(index):
            self._moments[culture] += torch.stack([exact[line], exact[line].square()])

    def _add(self, site: str, values: Tensor, index: list[int]) -> None:
        exact = torch.float32 if values.device.type == "mps" else torch.float64
        if site not in self._sums:
            self._sums[site] = values.new_zeros((0, *values.shape[1:]), dtype=exact)
            self._dtype = torch.promote_types(values.dtype, torch.float32)
        missing = len(self._index) - len(self._sums[site])
        if missing:
            empty = values.new_zeros((missing, *values.shape[1:]), dtype=exact)
            self._sums[site] = torch.cat([self._sums[site], empty])
        sums = self._sums[site] = self._sums[site].to(values.device)
        for line, culture in enumerate(index):  # not index_add_, whose order varies on a GPU
            sums[culture] += values[line]


def add_gaps(
    sums: dict[str, Float[Tensor, "path 2"]], gaps: Mapping[str, Float[Tensor, "batch path 2"]]
) -> None:
    """Add error and change of each question of a batch, one after the other, as batches may end
    anywhere."""
    for site, of_site in gaps.items():
        for of_question in of_site:
            sums[site] = sums[site] + of_question if site in sums else of_question.clone()


def completeness_of(sums: Mapping[str, Float[Tensor, "path 2"]]) -> dict[str, list[float]]:
    """Error over change of each path, by site.

    Example:
        >>> completeness_of({"attn.hook_q": torch.tensor([[0.25, 0.5], [0.0, 0.0]])})
        {'attn.hook_q': [0.5, 0.0]}
    """
    return {
        site: [error / change if change else error and inf for error, change in of_paths.tolist()]
        for site, of_paths in sums.items()
    }
