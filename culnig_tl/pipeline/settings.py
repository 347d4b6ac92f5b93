"""What a run's result depends on: written down once, and read back as the arguments of ``culnig``.

``Settings.to_json`` and ``Settings.from_json`` are each other's inverse, so that what a run's page
prints to make the run again can leave nothing out.
"""

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from culnig_tl.attribution import OwnMethod, method_name
from culnig_tl.errors import InvalidInputError, check_choice, check_number, check_numbers
from culnig_tl.evaluation import Design, Mode
from culnig_tl.files import (
    DamagedFileError,
    Format,
    RunFolder,
    read_json,
    read_record,
    write_record,
)
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.pipeline.questions import ROLES, RunQuestions, atlas_benchmarks, atlas_rows
from culnig_tl.questions import PreparedQuestions, fingerprint
from culnig_tl.selection import Recipe, SpecificRecipe, check_shares
from culnig_tl.sites import DEFAULT_SITES

_FORMAT = Format(
    "culnig_tl.run",
    1,
    noun="record of a run's settings",
    writer="ct.culnig",
    remedy="delete it and start the run again, which uses those of its other files that it would "
    "make just so",
)
_USUAL_PROMPTS: Mapping[str, Any] = {"date": "", "chat": True, "template": None}
"""Of prompts without a date, in the model's own way."""


@dataclass(frozen=True)
class Settings:
    """The arguments of ``culnig`` that its numbers depend on, besides model and questions.

    Raises:
        InvalidInputError: no factor, one given twice, a number that is not finite or out of range,
            or an unknown choice.

    Example:
        >>> settings = Settings(factor=(0.0, 2.0))
        >>> Settings.from_json(settings.to_json()) == settings
        True
    """

    sites: tuple[str, ...] = DEFAULT_SITES
    method: str | OwnMethod = "gradient_x_activation"
    mlp_top: float = 0.01
    attention_top: float = 0.002
    recipe: Recipe = "published"
    specific_recipe: SpecificRecipe | None = None
    recognition_top: float = 0.01
    specific_top: float = 0.003
    min_z: float = 0.5
    factor: tuple[float, ...] = (0.0,)
    n_random: int = 10
    n_layer_matched: int = 0
    mode: Mode = "argmax"
    random_design: Design = "full"

    def __post_init__(self) -> None:
        check_numbers("factor", self.factor, distinct=True)
        check_shares(
            mlp_top=self.mlp_top,
            attention_top=self.attention_top,
            recognition_top=self.recognition_top,
            specific_top=self.specific_top,
        )
        check_number("min_z", self.min_z)
        for name in ("n_random", "n_layer_matched"):
            check_number(name, getattr(self, name), low=0, whole=True)
        check_choice("recipe", self.recipe, get_args(Recipe))
        _check_specific_recipe(self.recipe, self.specific_recipe)
        check_choice("mode", self.mode, get_args(Mode))
        check_choice("random_design", self.random_design, get_args(Design))

    def to_json(self) -> dict[str, Any]:
        """The settings as they are written down."""
        return {
            "sites": list(self.sites),
            "method": method_name(self.method),
            "general": {"mlp_top": self.mlp_top, "attention_top": self.attention_top},
            "specific": {"top": self.specific_top, "min_z": self.min_z}
            | ({} if self.specific_recipe is None else {"recipe": self.specific_recipe}),
            "recognition_top": self.recognition_top,
            "recipe": self.recipe,
            "factor": self.factor[0],
            "more_factors": list(self.factor[1:]),
            "n_random": self.n_random,
            "n_layer_matched": self.n_layer_matched,
            "mode": self.mode,
            "random_design": self.random_design,
        }

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Settings":
        """Settings as ``to_json`` wrote them; a method of one's own comes back as its name."""
        return cls(
            sites=tuple(written["sites"]),
            method=written.get("method", "gradient_x_activation"),
            **written["general"],
            recognition_top=written["recognition_top"],
            recipe=written.get("recipe", "published"),
            specific_recipe=written["specific"].get("recipe"),
            specific_top=written["specific"]["top"],
            min_z=written["specific"]["min_z"],
            factor=(written["factor"], *written["more_factors"]),
            n_random=written["n_random"],
            n_layer_matched=written["n_layer_matched"],
            mode=written["mode"],
            random_design=written.get("random_design", "full"),
        )

    def arguments(self) -> dict[str, Any]:
        """The arguments of ``culnig`` that have these settings; rows and model are not among them.

        Example:
            >>> Settings().arguments()["factor"]
            0.0
        """
        arguments = asdict(self) | {"sites": list(self.sites), "factor": list(self.factor)}
        if len(self.factor) == 1:
            arguments["factor"] = self.factor[0]
        usual = Settings()
        for name in ("method", "recipe", "specific_recipe", "random_design"):
            if arguments[name] == getattr(usual, name):
                del arguments[name]
        return arguments


def _check_specific_recipe(recipe: Recipe, specific_recipe: Any) -> None:
    """Refuse a rule of the specific neurons that is unknown, or needs scores that the run has not.

    Raises:
        InvalidInputError: with both recipes.
    """
    if specific_recipe is None:
        return
    check_choice("specific_recipe", specific_recipe, get_args(SpecificRecipe))
    if specific_recipe == "selective" != recipe:
        raise InvalidInputError(
            f"specific_recipe is 'selective' and recipe is {recipe!r}, and only "
            "recipe='selective' scores the general questions that it subtracts; take "
            "recipe='selective' with general=, or specific_recipe='contrast'."
        )


def written_settings(
    model: HookedModel, settings: Settings, run_questions: RunQuestions
) -> dict[str, Any]:
    """Everything that a run depends on: settings, model, rows and versions."""
    written = settings.to_json() | {
        "model": {"name": model.cfg.model_name, "fingerprint": model_fingerprint(model)},
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "data": {role: rows.fingerprint for role, rows in run_questions.data.items()},
        "benchmarks": {name: rows.fingerprint for name, rows in run_questions.tests.items()},
        "culture_test": run_questions.culture_test.fingerprint,
        "versions": _versions(),
    }
    prompts = _of_prompts(
        [*run_questions.data.values(), *run_questions.tests.values(), run_questions.culture_test]
    )
    return written | ({"prompts": prompts} if prompts else {})


def given_rows(written: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of ``culnig`` that were rows of the user's own, with their fingerprints."""
    usual = _usual_fingerprints()
    given = {
        role: digits
        for role, digits in written["data"].items()
        if digits != usual["data"].get(role)
    }
    if written["benchmarks"] != usual["benchmarks"]:
        given["benchmarks"] = str(written["benchmarks"])
    if written["culture_test"] != next(iter(written["benchmarks"].values())):
        given["culture_test"] = written["culture_test"]
    return given


def identity_of(written: Mapping[str, Any]) -> dict[str, Any]:
    """What every file of a run depends on."""
    model = written["model"]["fingerprint"]
    return {"model": model, "dtype": written["dtype"], "versions": written["versions"]}


def open_run_folder(folder: RunFolder, written: Mapping[str, Any]) -> None:
    """Make a folder that of a run with these settings, or go on with the run that is there.

    Raises:
        InvalidInputError: it holds a run with other settings, or settings that cannot be read.
    """
    path = folder.file("settings.json")
    if not path.exists():
        folder.lock()
    if not path.exists():  # still, now that no other process writes here
        write_record(path, _FORMAT, written)
        return
    there, is_older = _read(path)
    usual = {
        "dtype": written["dtype"],
        "method": "gradient_x_activation",
        "recipe": "published",
        "random_design": "full",
        "prompts": {},
    }
    there, wanted = usual | there, usual | dict(written)
    different = [name for name, value in wanted.items() if there.get(name) != value]
    if different:
        earlier = " of an earlier version," if is_older else ""
        raise InvalidInputError(
            f"{folder.path} holds a run{earlier} with other settings ({', '.join(different)}); "
            "give another folder, or delete this one to run it again."
        )
    if is_older:
        folder.lock()
        write_record(path, _FORMAT, written)


def _read(path: Path) -> tuple[dict[str, Any], bool]:
    """The settings of a run, and whether they are of before files had a format.

    Raises:
        InvalidInputError: the file is something else, damaged, or of a newer version.
    """
    try:
        return read_record(path, _FORMAT)[0], False
    except DamagedFileError as error:
        raise InvalidInputError(
            f"{path} was damaged or changed by hand; {_FORMAT.remedy}."
        ) from error
    except InvalidInputError:
        if older := _read_older(path):
            return older, True
        raise


def _read_older(path: Path) -> dict[str, Any] | None:
    """Settings of before files had a format; None where the file holds something else."""
    try:
        there = read_json(path)
    except InvalidInputError:
        return None
    return there if isinstance(there, dict) and "data" in there and "format" not in there else None


def _of_prompts(questions: Iterable[PreparedQuestions]) -> dict[str, Any]:
    """How the prompts were written, as far as that is not the usual way."""
    return {
        name: value
        for prepared in questions
        for name, usual in _USUAL_PROMPTS.items()
        if (value := getattr(prepared, name)) != usual
    }


@cache
def _usual_fingerprints() -> dict[str, dict[str, str]]:
    """Fingerprints of the rows that are taken when none are given."""
    return {
        "data": {role: fingerprint(atlas_rows(role)) for role in ROLES},
        "benchmarks": {name: fingerprint(rows) for name, rows in atlas_benchmarks().items()},
    }


def _versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("culnig_tl", "torch", "transformer_lens", "transformers")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
