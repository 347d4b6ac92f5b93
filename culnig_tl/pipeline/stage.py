"""What every stage of a run works with, and the files that it wants."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from culnig_tl.errors import InvalidInputError
from culnig_tl.files import Identity, Kind, RunFolder
from culnig_tl.hooked_model import HookedModel
from culnig_tl.neurons import NeuronSet
from culnig_tl.pipeline.questions import RunQuestions
from culnig_tl.pipeline.settings import Settings
from culnig_tl.pipeline.work import Engine, Piece, Setup
from culnig_tl.questions import PreparedQuestions

T = TypeVar("T")
_SEED = 0


@dataclass(frozen=True)
class Stage:
    """What every stage works with.

    Attributes:
        folder: the run's folder.
        model: the model.
        settings: what the results depend on.
        questions: the questions of the run, prepared.
        engine: who does the work.
        progress: show progress bars.
    """

    folder: RunFolder
    model: HookedModel
    settings: Settings
    questions: RunQuestions
    engine: Engine
    progress: bool

    def run(self, pieces: Sequence[Piece], name: str) -> None:
        """Have pieces of work done."""
        setup = Setup(self.model, self.settings, self.questions)
        self.engine.run(setup, pieces, name, self.progress)


@dataclass(frozen=True)
class Wanted(Generic[T]):
    """A file that a run wants, and the piece of work that makes what it holds.

    Attributes:
        name: the file, as a path within the run's folder.
        identity: what it depends on, besides what every file does.
        make: makes its content; it can be pickled.
        tokens: what that costs.
        kind: how the file is read and written.
    """

    name: str
    identity: Identity
    make: Callable[[Setup], T]
    tokens: int
    kind: Kind[T]


def results(stage: Stage, wanted: Sequence[Wanted[T]], name: str) -> list[T]:
    """What the files hold: those that are not there, or of another run, are made first.

    Args:
        stage: the stage.
        wanted: the files.
        name: of the progress bar.
    """
    folder, contents = stage.folder, dict[int, T]()
    paths = [folder.file(each.name) for each in wanted]

    def missing() -> list[int]:
        for number, (path, each) in enumerate(zip(paths, wanted, strict=True)):
            held = folder.held(path, folder.whole(each.identity), each.kind.read)
            if held is not None:
                contents[number] = held
        numbers = [number for number in range(len(wanted)) if number not in contents]
        if numbers:
            folder.lock()
        return numbers

    def piece(number: int) -> Piece:
        each, path = wanted[number], paths[number]

        def keep(content: T) -> None:
            each.kind.write(path, content, folder.whole(each.identity))
            contents[number] = each.kind.read(path)[0]

        return Piece(each.make, each.tokens, keep, path.exists)

    stage.run([piece(number) for number in stage.engine.first(missing)], name)
    return [
        contents[number] if number in contents else _read(folder, paths[number], each)
        for number, each in enumerate(wanted)
    ]


def _read(folder: RunFolder, path: Path, wanted: Wanted[T]) -> T:
    """What another process has made.

    Raises:
        InvalidInputError: the file holds something else.
        MissingFileError: it is not there, or not seen from here.
    """
    content, recorded = wanted.kind.read(path)
    if recorded != folder.whole(wanted.identity):
        raise InvalidInputError(
            f"{path} holds what something else made while this run went on; give the run a folder "
            "of its own, on a disk that tells upper case from lower case and that every process "
            "sees."
        )
    return content


def n_tokens(prepared: PreparedQuestions) -> int:
    """Tokens of all prompts, without padding."""
    return sum(map(len, prepared.prompts))


def drawn(prepared: PreparedQuestions, number: int) -> PreparedQuestions:
    """At most so many of the questions, drawn and kept in their order."""
    if len(prepared) <= number:
        return prepared
    rows = np.random.default_rng(_SEED).permutation(len(prepared))[:number]
    return prepared.select(sorted(rows.tolist()))


def rows_identity(prepared: PreparedQuestions) -> dict[str, Any]:
    """What identifies questions: rows, how they are rendered, and the date in the prompts."""
    return {"fingerprint": prepared.fingerprint, "date": prepared.date}


def digests(sets: Mapping[str, NeuronSet]) -> dict[str, str]:
    """What identifies sets of neurons."""
    return {name: neurons.fingerprint for name, neurons in sets.items()}


def digest_of(content: Any) -> str:
    """What identifies any JSON content."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
