"""What a run's result depends on: written down once, and read back as the arguments of ``culnig``.

``chosen`` and ``arguments`` are each other's inverse, so that what a run's page prints to make the
run again can leave nothing out.
"""

import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset

from culnig_tl.benchmarks import load_benchmark
from culnig_tl.errors import InvalidInputError
from culnig_tl.files import read_json, write_json
from culnig_tl.hooks import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.questions import fingerprint

_IMPLIED = ("dtype",)  # by the model's fingerprint; older runs did not write it down
_IDENTIFICATION = {
    "cultural": "atlas",
    "control": "atlas-control",
    "recognition": "atlas-countries",
}
_TESTS = {
    "culture": "atlas",
    "country names": "atlas-countries",
    "common sense": "atlas-commonsense",
    "ordering": "atlas-ordering",
    "entailment": "atlas-entailment",
}


def chosen(
    *,
    sites: Sequence[str],
    mlp_top: float,
    attention_top: float,
    recognition_top: float,
    specific_top: float,
    min_z: float,
    factor: float | Sequence[float],
    n_random: int,
    n_layer_matched: int,
    mode: str,
) -> dict[str, Any]:
    """The settings that these arguments of ``culnig`` stand for.

    Raises:
        InvalidInputError: no factor, or one given twice.
    """
    factors = [float(each) for each in (factor if isinstance(factor, Sequence) else [factor])]
    if not factors or len(set(factors)) < len(factors):
        raise InvalidInputError(
            f"The factors are {factors}; give at least one, and each of them once."
        )
    return {
        "sites": list(sites),
        "general": {"mlp_top": mlp_top, "attention_top": attention_top},
        "specific": {"top": specific_top, "min_z": min_z},
        "recognition_top": recognition_top,
        "factor": factors[0],
        "more_factors": factors[1:],
        "n_random": n_random,
        "n_layer_matched": n_layer_matched,
        "mode": mode,
    }


def arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``culnig`` that have these settings; rows and model are not among them.

    Example:
        >>> given = {"sites": ["mlp.hook_post"], "mlp_top": 0.01, "attention_top": 0.002,
        ...     "recognition_top": 0.01, "specific_top": 0.003, "min_z": 0.5, "factor": [0.0, 2.0],
        ...     "n_random": 10, "n_layer_matched": 0, "mode": "argmax"}
        >>> arguments(chosen(**given)) == given
        True
    """
    more = settings["more_factors"]
    return {
        "sites": list(settings["sites"]),
        **settings["general"],
        "recognition_top": settings["recognition_top"],
        "specific_top": settings["specific"]["top"],
        "min_z": settings["specific"]["min_z"],
        "factor": [settings["factor"], *more] if more else settings["factor"],
        "n_random": settings["n_random"],
        "n_layer_matched": settings["n_layer_matched"],
        "mode": settings["mode"],
    }


def met(
    model: HookedModel,
    data: Mapping[str, Dataset],
    tests: Mapping[str, Dataset],
    culture_test: Dataset,
) -> dict[str, Any]:
    """Model, rows and versions, as far as the settings know them."""
    return {
        "model": {"name": model.cfg.model_name, "fingerprint": model_fingerprint(model)},
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        **_known_by(data, tests, culture_test),
        "versions": _versions(),
    }


def given_rows(settings: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of ``culnig`` that were rows of the user's own, with what they are known by."""
    usual = _usual()
    found = {
        name: known for name, known in settings["data"].items() if known != usual["data"][name]
    }
    if settings["benchmarks"] != usual["benchmarks"]:
        found["benchmarks"] = str(settings["benchmarks"])
    if settings["culture_test"] != next(iter(settings["benchmarks"].values())):
        found["culture_test"] = settings["culture_test"]
    return found


def claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Make ``out`` the folder of a run with these settings, or go on with the one that is there."""
    path = out / "settings.json"
    if not path.exists():
        write_json(path, settings)
        return
    there = read_json(path)
    compared = [name for name in settings if name not in _IMPLIED]
    different = [name for name in compared if there.get(name) != settings[name]]
    if different:
        raise InvalidInputError(
            f"{out} holds a run with other settings ({', '.join(different)}); give another folder, "
            "or delete this one to run it again."
        )


def atlas_rows(role: str) -> Dataset:
    """The embedded model's questions to identify with, by the argument that they stand for."""
    return load_benchmark(_IDENTIFICATION[role], split="identify")


def atlas_benchmarks() -> dict[str, Dataset]:
    """The embedded model's test questions, none of them used for identification, by name.

    Example:
        >>> list(atlas_benchmarks())[0]
        'culture'
    """
    return {shown: load_benchmark(name, split="test") for shown, name in _TESTS.items()}


def _known_by(
    data: Mapping[str, Dataset], tests: Mapping[str, Dataset], culture_test: Dataset
) -> dict[str, Any]:
    return {
        "data": {name: fingerprint(rows) for name, rows in data.items()},
        "benchmarks": {name: fingerprint(rows) for name, rows in tests.items()},
        "culture_test": fingerprint(culture_test),
    }


@cache
def _usual() -> dict[str, Any]:
    """What rows are known by when none are given."""
    tests = atlas_benchmarks()
    data = {role: atlas_rows(role) for role in _IDENTIFICATION}
    return _known_by(data, tests, next(iter(tests.values())))


def _versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("culnig_tl", "torch", "transformer_lens", "transformers")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
