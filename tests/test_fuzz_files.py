"""Damaged files of every format: a sentence of ours, or what the file held; nothing else.

A file is damaged in two ways, at random as Hypothesis draws. *Damage* is of bytes: bits flipped, a
piece lost, put in, overwritten with zeros or moved. *Garbage* is of meaning: a value anywhere in
the JSON that the file holds becomes one of another kind, goes, or comes twice. *Forged* garbage
has a right checksum: it may be accepted where it makes sense, but never with a traceback.
"""

import copy
import json
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

import culnig_tl as ct
from culnig_tl.attribution.checkpoint import Checkpoint
from culnig_tl.errors import CulnigError
from culnig_tl.evaluation import Breakers
from culnig_tl.files import Format, read_frame, read_record, records, write_frame, write_record
from culnig_tl.inspection import NeuronCard
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores, ScoreAccumulator

pytestmark = pytest.mark.usefixtures("as_for_a_user")

N_DRAWS = 100
N_DAMAGED, N_GARBAGE, N_FORGED = 14, 6, 3
"""Files of a draw."""
VALUES = [
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.5, 10**30, 10**400, float("nan"), float("inf")),
    *("", "x", "0", "nan", "L0.mlp.hook_post.1", [], {}, [[]], [0], ["x"], [[0, 1]], {"x": 1}),
    json.loads("[" * 50 + "]" * 50),
]


# ---------------------------------------------------------------- damage and garbage


def damaged(content: bytes, rng: Random) -> bytes:
    """Some bytes of a file changed."""
    data = bytearray(content)
    start = rng.randrange(len(data))
    length = rng.choice([1, 2, 4, 8, 64])
    kind = rng.choices(
        ["bit", "bits", "cut", "put in", "zeros", "lost", "moved"], [8, 4, 2, 2, 1, 1, 1]
    )
    match kind[0]:
        case "bit":
            data[start] ^= 1 << rng.randrange(8)
        case "bits":
            for _ in range(rng.randint(2, 8)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "cut":
            del data[start:]
        case "put in":
            data[start:start] = rng.randbytes(length)
        case "zeros":
            data[start : start + length] = bytes(len(data[start : start + length]))
        case "lost":
            del data[start : start + length]
        case "moved":
            piece = data[start : start + length]
            del data[start : start + length]
            place = rng.randrange(len(data) + 1)
            data[place:place] = piece
    return bytes(data)


def nodes(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as its container and its key in it."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(pairs):
        yield content, key
        if isinstance(value, dict | list):
            yield from nodes(value)


def garbled(content: Any, rng: Random) -> Any:
    """A JSON value of which one place holds something else, is gone or comes twice."""
    content = copy.deepcopy(content)
    by_depth = list(nodes(content))
    container, key = rng.choice(by_depth[: rng.choice([8, len(by_depth)])])
    match rng.choice(["other", "other", "other", "gone", "twice"]):
        case "other":
            container[key] = copy.deepcopy(rng.choice(VALUES))
        case "gone":
            del container[key]
        case "twice" if isinstance(container, list):
            container.append(container[key])
        case "twice":
            container[f"{key} "] = container[key]
    return content


# ---------------------------------------------------------------- what files are


class Json:
    """A file of JSON."""

    @staticmethod
    def header(content: bytes) -> Any:
        return json.loads(content)

    @staticmethod
    def with_header(content: bytes, header: Any) -> bytes:
        return json.dumps(header).encode()

    @staticmethod
    def forged(content: bytes, header: Any) -> bytes:
        if isinstance(header, dict) and "checksum" in header:
            header = {**header, "checksum": records._digest_of_json(header)}
        return json.dumps(header).encode()


class Tensors:
    """A safetensors file: a length, a JSON header and the bytes of the tensors."""

    @staticmethod
    def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
        (length,) = struct.unpack("<Q", content[:8])
        return json.loads(content[8 : 8 + length]), content[8 + length :]

    @staticmethod
    def header(content: bytes) -> Any:
        return json.loads(Tensors._parts(content)[0]["__metadata__"]["culnig_tl"])

    @staticmethod
    def with_header(content: bytes, header: Any) -> bytes:
        whole, data = Tensors._parts(content)
        whole["__metadata__"]["culnig_tl"] = json.dumps(header)
        text = json.dumps(whole).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + data

    @staticmethod
    def forged(content: bytes, header: Any) -> bytes:
        if isinstance(header, dict):
            checksum = records._digest_of_tensors(load(content), header)
            header = {**header, "checksum": checksum}
        return Tensors.with_header(content, header)


class Frame:
    """A parquet file with JSON in its schema."""

    @staticmethod
    def header(content: bytes) -> Any:
        return json.loads(Frame._table(content).schema.metadata[b"culnig_tl"])

    @staticmethod
    def with_header(content: bytes, header: Any) -> bytes:
        table = Frame._table(content)
        metadata = {**table.schema.metadata, b"culnig_tl": json.dumps(header).encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), sink)
        return sink.getvalue().to_pybytes()

    @staticmethod
    def forged(content: bytes, header: Any) -> bytes:
        if isinstance(header, dict):
            checksum = records._digest_of_table(Frame._table(content), header)
            header = {**header, "checksum": checksum}
        return Frame.with_header(content, header)

    @staticmethod
    def _table(content: bytes) -> Any:
        return pq.read_table(pa.BufferReader(content))


@dataclass
class Target:
    """A format: one small file of it, how it is read, and when two values of it are equal."""

    path: Path
    kind: Any
    load: Callable[[Path], Any]
    equal: Callable[[Any, Any], bool]

    def __post_init__(self) -> None:
        self.content = self.path.read_bytes()
        self.value = self.load(self.path)

    def outcome(self, content: bytes) -> str:
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                value = self.load(self.path)
        except (CulnigError, UserWarning) as error:
            text = str(error)
            return "sentence" if "\n" not in text and text.endswith(".") else f"no sentence: {text}"
        except Exception as error:
            return f"raw: {type(error).__name__}: {error}"
        return "equal" if self.equal(value, self.value) else "accepted"

    def damaged(self, rng: Random) -> Iterator[str]:
        """What comes of damage and garbage."""
        header = self.kind.header(self.content)
        for _ in range(N_DAMAGED):
            yield self.outcome(damaged(self.content, rng))
        for _ in range(N_GARBAGE):
            yield self.outcome(self.kind.with_header(self.content, garbled(header, rng)))

    def forged(self, rng: Random) -> Iterator[str]:
        """What comes of garbage with a right checksum."""
        header = self.kind.header(self.content)
        for _ in range(N_FORGED):
            yield self.outcome(self.kind.forged(self.content, garbled(header, rng)))


def outcomes(
    of_draw: Callable[[Random], Iterator[str]], *, allowed: Collection[str]
) -> Counter[str]:
    """How often each outcome came; a draw with one that is not allowed is shown."""
    counts: Counter[str] = Counter()

    @settings(max_examples=N_DRAWS)
    @given(random=st.randoms(use_true_random=True))  # seeded by Hypothesis
    def draw(random: Random) -> None:
        for outcome in of_draw(random):
            assert outcome in allowed
            counts[outcome] += 1

    draw()
    return counts


# ---------------------------------------------------------------- formats


def scores_equal(one: NeuronScores, other: NeuronScores) -> bool:
    return (
        one.sites == other.sites
        and all(torch.equal(one.values[site], other.values[site]) for site in one.sites)
        and all(one.values[site].dtype == other.values[site].dtype for site in one.sites)
        and all(
            getattr(one, name) == getattr(other, name)
            for name in ("cultures", "n_questions", "n_prompts", "source")
        )
    )


def sums_equal(one: Any, other: Any) -> bool:
    if one is None or one[1:] != other[1:]:
        return False
    tensors = ("sums", "gaps")
    return all(
        getattr(one[0], name) == getattr(other[0], name)
        for name in ("cultures", "n_prompts", "ids", "dtype")
    ) and all(
        list(getattr(one[0], name)) == list(getattr(other[0], name))
        and all(
            torch.equal(values, getattr(other[0], name)[site])
            for site, values in getattr(one[0], name).items()
        )
        for name in tensors
    )


def frames_equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return frames_equal(one[0], other[0]) and one[1] == other[1]
    return one.equals(other) and list(one.columns) == list(other.columns)


def cards_equal(one: NeuronCard, other: NeuronCard) -> bool:
    pairs = [(getattr(one, each.name), getattr(other, each.name)) for each in fields(one)]
    return all(a.equals(b) if isinstance(a, pd.DataFrame) else a == b for a, b in pairs)


def sets_equal(one: NeuronSet, other: NeuronSet) -> bool:
    return one == other and one.scores == other.scores and one.source == other.source


def small_scores() -> NeuronScores:
    values = {site: torch.randn(2, 2, 3) for site in ("mlp.hook_post", "attn.hook_q")}
    source = {"sites": list(values), "method": "gradient_x_activation", "pool": "max"}
    return NeuronScores(values, ("Iran", "Spain"), 3, (2, 4), source)


@pytest.fixture
def scores_file(tmp_path: Path) -> Target:
    path = tmp_path / "scores.safetensors"
    small_scores().save(path)
    return Target(path, Tensors, NeuronScores.load, scores_equal)


@pytest.fixture
def checkpoint_file(tmp_path: Path) -> Target:
    path, settings = tmp_path / "run.checkpoint", {"model": "m", "token_budget": 512}
    sums = ScoreAccumulator(["Iran", "Spain"])
    sums.update(
        {"mlp.hook_post": torch.randn(3, 2, 4)},
        cultures=["Iran", "Spain", "Iran"],
        ids=["q1", "q2", "q3"],
        gaps={"mlp.hook_post": torch.rand(3, 1, 2)},
        probability=torch.rand(3),
    )
    checkpoint = Checkpoint(path, settings, minutes=0)
    checkpoint.write(sums.held(), n_done=3, token_budget=256)
    return Target(path, Tensors, lambda _: checkpoint.read(), sums_equal)


@pytest.fixture
def set_file(tmp_path: Path) -> Target:
    path = tmp_path / "set.json"
    places = {"mlp.hook_post": [(0, 1), (1, 2)], "attn.hook_q": [(0, 0)]}
    NeuronSet.of(
        places,
        scores={("mlp.hook_post", 0, 1): 0.5, ("attn.hook_q", 0, 0): 0.25},
        shapes={"mlp.hook_post": (2, 3), "attn.hook_q": (2, 2)},
        source={"kind": "culture-general", "top": {"mlp": 0.01}},
    ).save(path)
    return Target(path, Json, NeuronSet.load, sets_equal)


@pytest.fixture
def card_file(tmp_path: Path, loaded: Any, rows: Any) -> Target:
    path = tmp_path / "card.json"
    card = ct.inspect_neuron(loaded(), rows, "L0.mlp.hook_post.3", top=1)
    card.save(path, identity={"model": "m"})
    return Target(path, Json, NeuronCard.load, cards_equal)


@pytest.fixture
def breakers_file(tmp_path: Path) -> Target:
    path, form = tmp_path / "breakers.json", Format("culnig_tl.record", 1, "record", "ct.culnig")
    neurons = NeuronSet.of("L0.mlp.hook_post.1", scores={("mlp.hook_post", 0, 1): 512.5})
    checked = {"general": Breakers(neurons, 0.75, 60, neurons), "published": Breakers()}
    content = {name: each.to_json() for name, each in checked.items()}
    write_record(path, form, content, identity={"rows": "r", "factor": 0.0})

    def load(path: Path) -> dict[str, Breakers]:
        content, _ = read_record(path, form)
        return {name: Breakers.from_json(each) for name, each in content.items()}

    return Target(path, Json, load, lambda one, other: one == other)


@pytest.fixture
def frame_file(tmp_path: Path) -> Target:
    path, form = tmp_path / "answers.parquet", Format("culnig_tl.frame", 1, "table", "ct.culnig")
    frame = pd.DataFrame(
        {
            "id": ["q1", "q2", "q3"],
            "culture": ["Iran", None, "Türkiye"],
            "probability": [0.25, float("nan"), 1.0],
            "correct": [True, False, True],
            "rank": [1, 2, 3],
        },
        index=pd.Index([2, 5, 7], name="row"),
    )
    write_frame(path, form, frame, identity={"rows": "r", "factor": 0.5})
    return Target(path, Frame, lambda path: read_frame(path, form), frames_equal)


@pytest.fixture
def their_scores_file(tmp_path: Path, loaded: Any) -> Target:
    model, path = loaded(), tmp_path / "blend_max_scores.json"
    scores = NeuronScores({"attn.hook_k": torch.randn(1, 3, 16)}, ("Iran",), 2, (2,), {})
    scores.to_culnig_json(path)
    return Target(path, Json, lambda path: NeuronScores.from_culnig_json(path, model), scores_equal)


@pytest.fixture
def their_neurons_file(tmp_path: Path, loaded: Any) -> Target:
    model, path = loaded(), tmp_path / "neurons.json"
    neurons = NeuronSet.of(["L0.mlp.hook_pre.3", "L1.attn.hook_k.2", "L2.attn.hook_v.1"])
    neurons.to_culnig_json(path, model_name="a/model", dataset_ids={"blend": ["q1"]})
    return Target(path, Json, lambda path: NeuronSet.from_culnig_json(path, model), sets_equal)


OURS = ["scores", "checkpoint", "set", "card", "breakers", "frame"]
THEIRS = ["their_scores", "their_neurons"]


@pytest.mark.parametrize("name", OURS)
def test_a_damaged_file_of_ours_is_a_sentence_or_what_it_held(request, name):
    target = request.getfixturevalue(f"{name}_file")
    counts = outcomes(target.damaged, allowed={"sentence", "equal"})
    assert counts.total() >= 2000
    assert counts["sentence"] > 1500


@pytest.mark.parametrize("name", OURS)
def test_a_forged_file_of_ours_is_never_a_traceback(request, name):
    target = request.getfixturevalue(f"{name}_file")
    counts = outcomes(target.forged, allowed={"sentence", "equal", "accepted"})
    assert counts["sentence"] > 50


@pytest.mark.parametrize("name", THEIRS)
def test_a_damaged_file_of_the_authors_is_never_a_traceback(request, name):
    """It has no checksum: another number is another number."""
    target = request.getfixturevalue(f"{name}_file")
    counts = outcomes(target.damaged, allowed={"sentence", "equal", "accepted"})
    assert counts.total() >= 2000
    assert counts["sentence"] > 1000
