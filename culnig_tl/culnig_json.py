"""Files of the authors' code (arXiv 2510.08284, repository ynklab/CULNIG), read and written.

A neuron is named ``{module}_{layer}_{neuron}``, e.g. ``mlp.gate_proj_12_345``:

| their module | our site |
|---|---|
| mlp.gate_proj, mlp.up_proj | mlp.hook_pre, mlp.hook_pre_linear |
| self_attn.q_proj, k_proj, v_proj | attn.hook_q, attn.hook_k, attn.hook_v |
| mlp.gate_up_proj (fused, phi-4) | first half mlp.hook_pre, second half mlp.hook_pre_linear |
| self_attn.qkv_proj (fused, phi-4) | queries, then keys, then values |

Their own files name the parts of fused layers apart, as for every other model; both ways are read,
the parts are written. ``mlp.hook_post`` has no name of theirs and is written as ``mlp.up_proj``: in
a gated MLP without bias the output is linear in ``up``, so that score, suppression and enhancement
are the same there.

*Scores* are sums over questions by country, not yet divided by ``N(D)``, which is the number of ids
under ``dataset_ids``. *Neurons* are a list with module, layer, neuron and score.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
from jaxtyping import Float

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.files import opened, read_json, replacing, write_json
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import SITES, site_shape

_SITES = {site.module: site.name for site in SITES.values() if site.module is not None}
_FUSED = {
    "mlp.gate_up_proj": ("mlp.hook_pre", "mlp.hook_pre_linear"),
    "self_attn.qkv_proj": ("attn.hook_q", "attn.hook_k", "attn.hook_v"),
}
_MODULES = {site: module for module, site in _SITES.items()} | {"mlp.hook_post": "mlp.up_proj"}
_KEY = re.compile(r"(.+)_(\d+)_(\d+)", re.ASCII)
_INDENT = " " * 4


def read_neurons(path: str | Path, model: HookedModel) -> NeuronSet:
    """The set in a file of the authors'; ``model`` tells the parts of fused layers apart.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: the file holds no neurons, or neurons that this model does not have.
    """
    content = read_json(path)
    listed = content.get("top_neurons") if isinstance(content, dict) else content
    if not isinstance(listed, list):
        raise InvalidInputError(
            f"{path} has no list 'top_neurons'; give a file of neurons from the authors' code."
        )
    places = _Places(model)
    scores: dict[Neuron, float] = {}
    for entry in listed:
        module, layer, index, score = _listed(entry, path)
        neuron = places.of(module, layer, index)
        if neuron in scores:
            raise InvalidInputError(
                f"{path} lists {module}_{layer}_{index} twice; every neuron has one score."
            )
        scores[neuron] = score
    source = _source(content, path)
    return NeuronSet.of(
        list(scores),
        scores=scores,
        shapes={site: site_shape(model, site) for site in {neuron.site for neuron in scores}},
        source={"kind": "from the authors' JSON", **source},
    )


def write_neurons(
    neurons: NeuronSet,
    path: str | Path,
    *,
    model_name: str = "",
    dataset_ids: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a set for the authors' code, best score first; without scores all are 0."""
    modules = _modules_of(neurons.sites)
    listed = neurons.to_frame().fillna({"score": 0.0})
    write_json(
        path,
        {
            "model_name": model_name or neurons.source.get("model_name", ""),
            "dataset_ids": dict(dataset_ids or neurons.source.get("dataset_ids", {})),
            "top_neurons": [
                {
                    "module_name": modules[row["site"]],
                    "layer_idx": row["layer"],
                    "neuron_idx": row["neuron"],
                    "attribute_score": row["score"],
                }
                for row in listed.to_dict("records")
            ],
        },
    )


def read_scores(path: str | Path, model: HookedModel) -> NeuronScores:
    """The scores in a file of the authors', divided by ``N(D)`` as ours are.

    Memory: about twice the size of the file.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: the file holds no scores, or not those of every neuron of a module.
    """
    by_key, ids = _sums_and_ids(path)
    cultures = next(iter(by_key.values())).cultures
    n_questions = sum(len(set(each)) for each in ids.values())
    sums = _filled(by_key, cultures, _Places(model), path)
    return NeuronScores(
        values={site: torch.from_numpy(s / n_questions).float() for site, s in sums.items()},
        cultures=cultures,
        n_questions=n_questions,
        n_prompts=(0,) * len(cultures),
        source={
            "sites": list(sums),
            "method": "gradient_x_activation",
            "pool": "max",
            "padding": "zero",
            "clamp": any("control" in name for name in ids),
            "weight": "probability",
            "model": model_fingerprint(model),
            "data": "the authors' JSON",
            "dataset_ids": ids,
        },
    )


def write_scores(
    scores: NeuronScores,
    path: str | Path,
    *,
    dataset: str = "blend",
    ids: Iterable[str] | None = None,
) -> None:
    """Write scores as the authors' code does, one number per line.

    Raises:
        InvalidInputError: sites without a name of theirs, or a number of ids that is not ``N(D)``.
    """
    modules = _modules_of(scores.sites)
    listed = _ids(scores, dataset, ids)
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(f'{{\n{_INDENT}"neuron_scores": {{')
        separator = "\n"
        for key, values in _sums(scores, modules):
            file.write(separator)
            _write_one(file, key, scores.cultures, values)
            separator = ",\n"
        rest = json.dumps(listed, indent=4, ensure_ascii=False).replace("\n", f"\n{_INDENT}")
        file.write(f'\n{_INDENT}}},\n{_INDENT}"total_probabilities_per_country": {{}},\n')
        file.write(f'{_INDENT}"dataset_ids": {rest}\n}}\n')


class _Places:
    """The neuron that the authors' (module, layer, neuron) means in one model."""

    def __init__(self, model: HookedModel) -> None:
        self._model = model
        self._shapes: dict[str, tuple[int, int]] = {}

    def shape(self, site: str) -> tuple[int, int]:
        if site not in self._shapes:
            self._shapes[site] = site_shape(self._model, site)
        return self._shapes[site]

    def of(self, module: str, layer: int, neuron: int) -> Neuron:
        index = neuron
        for site in _FUSED.get(module, (_SITES[module],) if module in _SITES else ()):
            n_layers, width = self.shape(site)
            if 0 <= layer < n_layers and 0 <= index < width:
                return Neuron(site, layer, index)
            index -= width
        raise InvalidInputError(
            f"{module}_{layer}_{neuron} is no neuron of this model; the modules are "
            f"{', '.join((*_SITES, *_FUSED))}, and a file must belong to the model it is read with."
        )


def _listed(entry: Any, path: str | Path) -> tuple[str, int, int, float]:
    """Module, layer, neuron and score of one entry: an object, or a key without a score."""
    try:
        if isinstance(entry, str):
            return *_parsed(entry), 0.0
        module, score = entry["module_name"], entry.get("attribute_score", 0.0)
        if not isinstance(module, str):
            raise TypeError(module)
        check_number("attribute_score", score)
        check_number("layer_idx", entry["layer_idx"], low=0, whole=True)
        check_number("neuron_idx", entry["neuron_idx"], low=0, whole=True)
        return module, entry["layer_idx"], entry["neuron_idx"], float(score)
    except (KeyError, TypeError, InvalidInputError) as error:
        raise InvalidInputError(
            f"{path} lists {entry!r:.100}, which is no neuron; it needs module_name, layer_idx and "
            "neuron_idx, or a key such as mlp.gate_proj_12_345."
        ) from error


def _parsed(key: str) -> tuple[str, int, int]:
    match = _KEY.fullmatch(key)
    if match is None:
        raise InvalidInputError(
            f"{key!r} is no neuron; a neuron's key looks like mlp.gate_proj_12_345."
        )
    return match[1], int(match[2]), int(match[3])


class _Sums(NamedTuple):
    """The sums of one neuron; as an array they take a tenth of the memory."""

    cultures: tuple[str, ...]
    values: np.ndarray


def _sums_or_dict(pairs: list[tuple[str, Any]]) -> Any:
    """A JSON object; one of numbers becomes sums."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name that stands twice")
    if pairs and all(type(value) in (float, int) for _, value in pairs):
        names, values = zip(*pairs, strict=True)
        return _Sums(names, np.array(values, dtype=float))
    return dict(pairs)


def _sums_and_ids(path: str | Path) -> tuple[dict[str, _Sums], dict[str, list[str]]]:
    """Sums by the neuron's key, and question ids by data set."""
    with opened(path) as file:
        written = file.read()
    try:
        content = json.loads(written, object_pairs_hook=_sums_or_dict)
        sums, ids = content["neuron_scores"], content["dataset_ids"]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _no_scores(path) from error
    is_sums = isinstance(sums, dict) and all(isinstance(each, _Sums) for each in sums.values())
    if not is_sums or not sums or not _are_ids(ids) or not any(ids.values()):
        raise _no_scores(path)
    return sums, ids


def _no_scores(path: str | Path) -> InvalidInputError:
    return InvalidInputError(
        f"{path} holds no scores with 'neuron_scores' and 'dataset_ids'; give a file that the "
        "authors' calc_neuron_score.py wrote."
    )


def _are_ids(ids: Any) -> bool:
    """Whether something is question ids by data set."""
    return isinstance(ids, dict) and all(
        isinstance(each, list) and all(isinstance(one, str) for one in each)
        for each in ids.values()
    )


def _source(content: Any, path: str | Path) -> dict[str, Any]:
    """What a file of neurons says of where they come from."""
    if not isinstance(content, dict):
        return {}
    source = {key: content[key] for key in ("model_name", "dataset_ids") if key in content}
    if not isinstance(source.get("model_name", ""), str) or not _are_ids(
        source.get("dataset_ids", {})
    ):
        raise InvalidInputError(
            f"{path} has a model_name that is no text, or dataset_ids that are no lists of "
            "question ids by data set; give a file of neurons from the authors' code."
        )
    return source


def _filled(
    sums_by_key: Mapping[str, _Sums],
    cultures: tuple[str, ...],
    places: _Places,
    path: str | Path,
) -> dict[str, Float[np.ndarray, "culture layer neuron"]]:
    """Sums by site, out of sums by key."""
    sums: dict[str, np.ndarray] = {}
    for key, (names, values) in sums_by_key.items():
        if names != cultures:
            raise InvalidInputError(
                f"{path} has the countries {', '.join(names)} for {key} and {', '.join(cultures)} "
                "elsewhere; every neuron needs the same ones."
            )
        site, layer, neuron = places.of(*_parsed(key))
        if site not in sums:
            sums[site] = np.full((len(cultures), *places.shape(site)), np.nan)
        is_first = np.isnan(sums[site][0, layer, neuron])
        if not is_first or not np.isfinite(values).all():
            fault = "a sum that is no finite number" if is_first else "sums twice"
            raise InvalidInputError(
                f"{path} has {fault} for {key}; give a file that the authors' "
                "calc_neuron_score.py wrote."
            )
        sums[site][:, layer, neuron] = values
    for site, values in sums.items():
        if missing := int(np.isnan(values[0]).sum()):
            raise InvalidInputError(
                f"{path} lacks {missing:,} of the {values[0].size:,} neurons of {site}; give the "
                "whole file, and the model that it belongs to."
            )
    return sums


def _modules_of(sites: Iterable[str]) -> dict[str, str]:
    """The authors' module of each site."""
    modules = {site: _MODULES[site] for site in sites if site in _MODULES}
    if unknown := [site for site in sites if site not in _MODULES]:
        raise InvalidInputError(
            f"The authors' files have no name for {', '.join(unknown)}; they know "
            f"{', '.join(_MODULES)}."
        )
    if len(set(modules.values())) < len(modules):
        raise InvalidInputError(
            "mlp.hook_post and mlp.hook_pre_linear are both written as mlp.up_proj; "
            "leave one of them out."
        )
    return modules


def _ids(scores: NeuronScores, dataset: str, ids: Iterable[str] | None) -> dict[str, list[str]]:
    """``dataset_ids``, whose number is ``N(D)``; without ids they are numbered from 1."""
    if ids is None and "dataset_ids" in scores.source:
        return dict(scores.source["dataset_ids"])
    listed = (
        list(dict.fromkeys(ids))
        if ids is not None
        else [str(number) for number in range(1, scores.n_questions + 1)]
    )
    if len(listed) != scores.n_questions:
        raise InvalidInputError(
            f"There are {len(listed)} distinct ids for scores of {scores.n_questions} questions; "
            "give the ids of the rows that were scored."
        )
    return {dataset: listed}


def _sums(scores: NeuronScores, modules: Mapping[str, str]) -> Iterator[tuple[str, list[float]]]:
    """Each neuron's key with its sum over the questions of every culture."""
    for site, module in modules.items():
        for layer in range(scores.shapes[site][0]):
            sums = scores.values[site][:, layer].double().T * scores.n_questions
            for neuron, values in enumerate(sums.tolist()):
                yield f"{module}_{layer}_{neuron}", values


def _write_one(file: TextIO, key: str, cultures: Sequence[str], values: list[float]) -> None:
    lines = ",\n".join(
        f"{_INDENT * 3}{json.dumps(culture, ensure_ascii=False)}: {value!r}"
        for culture, value in zip(cultures, values, strict=True)
    )
    file.write(f'{_INDENT * 2}"{key}": {{\n{lines}\n{_INDENT * 2}}}')
