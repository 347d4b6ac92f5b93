"""A checkpoint with a set of neurons scaled in its weights, for whatever reads checkpoints.

A neuron is a channel of what a linear layer takes or gives (see ``find_places``), and ``y = W x +
b`` is linear in both, so that

    input of W  (mlp.hook_post, attn.hook_z)             column n of W   ->  factor * column n
    output of W (mlp.hook_pre, hook_pre_linear, q, k, v)  row n of W, b_n ->  factor * row n, b_n

computes what a hook there computes, whatever follows: rotation, a norm, an activation function.
With a factor of 0 or a power of two it is the same to the last bit of each weight; another factor
is rounded to the weights' type.

The files are copied as they are, and in them only the tensors that change. What is refused: layers
that are quantised or compute anything but ``W x + b``, weights that another layer shares, and sites
without a place (mixtures of experts, latent attention). Memory: the largest file of weights.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from xxhash import xxh3_128

from culnig_tl.atlas import EMBEDDED
from culnig_tl.errors import CulnigError, InvalidInputError, MissingFileError, UnwritableError
from culnig_tl.export.module_hooks import ScaledChannels, channels_of, check_factor
from culnig_tl.files import Format, locked, read_json, read_record, write_record
from culnig_tl.models import outline
from culnig_tl.neurons import Listed, NeuronSet

RECORD = "culnig_tl_baked.json"
"""The file that says what was baked into a folder."""
FORMAT = Format("culnig_tl.baked", 1, noun="record of what was baked", writer="ct.bake")

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx"}
_PIECE = 2**24


@dataclass(frozen=True, eq=False)
class _Change:
    """Channels of a weight or bias that are multiplied."""

    axis: int
    channels: Int[Tensor, "neuron"]


def bake(
    folder: str | Path, neurons: NeuronSet | Listed, out: str | Path, *, factor: float = 0.0
) -> Path:
    """Write a copy of a model folder whose weights have ``neurons`` multiplied by ``factor``.

    Args:
        folder: in Hugging Face layout with safetensors, or ``"atlas"``.
        neurons: a set, or neurons by value or name.
        out: the new folder; it must not be there yet. It holds the files of ``folder`` (weights
            other than those that transformers reads are left out) and ``culnig_tl_baked.json``.
        factor: 0 suppresses, 1 keeps, 2 enhances; any finite number is allowed.

    Returns:
        The new folder.

    Raises:
        MissingFileError: no such folder, or weights that are incomplete.
        InvalidInputError: neurons or a factor that cannot be baked, with the reason, or a folder
            that is there already.
        UnwritableError: the folder cannot be written.

    Example:
        >>> import tempfile, culnig_tl as ct
        >>> out = bake("atlas", "L1.mlp.hook_post.17", Path(tempfile.mkdtemp()) / "masked")
        >>> ct.load_model(out).W_out[1, 17].abs().max().item()
        0.0
    """
    neurons, out = NeuronSet.of(neurons), Path(out).expanduser()
    if not neurons:
        raise InvalidInputError(
            "There are no neurons to bake, and the copy would be the model as it is; give at least "
            "one, such as 'L1.mlp.hook_post.17'."
        )
    source = _existing(folder)
    hf_model = outline(source)
    check_factor(factor, hf_model)
    _check_not_quantized(hf_model)
    changes = _changes(hf_model, channels_of(hf_model, neurons))
    files = _weight_files(source)
    keys = _keys(files, changes, hf_model)
    with _whole_folder(out) as part:
        digests = {path.name: _copy(path, part, keys, changes, factor) for path in files}
        _copy_the_rest(source, part, files)
        write_record(part / RECORD, FORMAT, _record(source, neurons, factor, digests))
    return out


def _existing(folder: str | Path) -> Path:
    source = Path(EMBEDDED.get(str(folder), folder)).expanduser()
    if not source.is_dir():
        raise MissingFileError(
            f"{folder} is no folder of this machine; give one in Hugging Face layout (a model of "
            f"the hub: `hf download {folder} --local-dir FOLDER`)."
        )
    return source


def _record(
    source: Path, neurons: NeuronSet, factor: float, digests: Mapping[str, str]
) -> dict[str, Any]:
    """What was baked into which files, and what had been baked into those before."""
    before = source / RECORD
    return {
        "neurons": neurons.neurons,
        "factor": float(factor),
        "selection": dict(neurons.source),
        "source_files": dict(digests),
        "baked_before": read_record(before, FORMAT)[0] if before.is_file() else None,
    }


def _changes(
    hf_model: PreTrainedModel, scaled: Sequence[ScaledChannels]
) -> dict[str, list[_Change]]:
    """What is multiplied in each parameter, by its name in transformers."""
    changes: dict[str, list[_Change]] = {}
    for each in scaled:
        module, name = hf_model.get_submodule(each.place.module), each.place.module
        _check_linear(name, module)
        changes.setdefault(f"{name}.weight", []).append(_Change(each.place.axis, each.channels))
        if each.place.side == "output" and module.bias is not None:
            changes.setdefault(f"{name}.bias", []).append(_Change(0, each.channels))
    _check_alone(hf_model, changes)
    return changes


def _check_linear(name: str, module: nn.Module) -> None:
    if type(module).forward not in (nn.Linear.forward, Conv1D.forward):
        raise InvalidInputError(
            f"{name} is a {type(module).__name__}, which computes something else than W x + b of "
            "its weights, so that nothing can be baked into them; use neurons.to_hooks on the "
            "loaded model."
        )


def _check_alone(hf_model: PreTrainedModel, names: Mapping[str, Any]) -> None:
    owners: dict[int, list[str]] = {}
    for name, weight in hf_model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(weight), []).append(name)
    for shared in owners.values():
        if len(shared) > 1 and names.keys() & set(shared):
            raise InvalidInputError(
                f"{' and '.join(shared)} are one tensor, and scaling it would scale them all; use "
                "neurons.to_hooks on the loaded model."
            )


def _check_not_quantized(hf_model: PreTrainedModel) -> None:
    if getattr(hf_model.config, "quantization_config", None) is not None:
        raise InvalidInputError(
            "The weights of this folder are quantised (quantization_config in its config.json), "
            "and packed numbers cannot be scaled; bake the model before it is quantised, or use "
            "neurons.to_hooks on the loaded model."
        )


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads."""
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    names = set(read_json(folder / _INDEX)["weight_map"].values())
    return [folder / name for name in sorted(names)]


def _copy_the_rest(folder: Path, part: Path, files: Sequence[Path]) -> None:
    """Configuration, tokenizer and the like; no weights in another form, which are not scaled."""
    for path in folder.iterdir():
        is_left_out = path.name.startswith(".") or path.name in (RECORD, _INDEX)
        if is_left_out or path.name.endswith(".index.json") or _holds_weights(path):
            continue
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, part / path.name)
    if files[0].name != _WHOLE:
        shutil.copyfile(folder / _INDEX, part / _INDEX)


def _holds_weights(path: Path) -> bool:
    within = path.rglob("*") if path.is_dir() else [path]
    return any(each.suffix in _WEIGHTS for each in within)


def _keys(
    files: Sequence[Path], names: Mapping[str, Any], hf_model: PreTrainedModel
) -> dict[str, str]:
    """The parameter behind each key of the files that changes.

    Files may leave out the prefix of the model within, or write it in another place.
    """
    ignored = {"model", hf_model.base_model_prefix}
    wanted = {_without(name, ignored): name for name in names}
    keys: dict[str, str] = {}
    for path in files:
        for key, shape in _shapes(path).items():
            name = wanted.get(_without(key, ignored))
            if name is not None:
                _check_same_shape(key, shape, hf_model, name)
                keys[key] = name
    if sorted(keys.values()) != sorted(names):
        missing = sorted(names.keys() - keys.values()) or sorted(keys)
        raise InvalidInputError(
            f"{missing[0]} does not stand once in the files of {files[0].parent} under that name, "
            "so that nothing can be baked into it; save the model anew by save_pretrained."
        )
    return keys


def _shapes(path: Path) -> dict[str, list[int]]:
    """Shapes by key in one file of weights."""
    try:
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            return {key: list(file.get_slice(key).get_shape()) for key in keys}
    except SafetensorError as error:
        raise InvalidInputError(
            f"{path} is no safetensors file that can be read ({error}); download it again."
        ) from error


def _without(name: str, ignored: set[str]) -> str:
    return ".".join(word for word in name.split(".") if word not in ignored)


def _check_same_shape(key: str, shape: list[int], hf_model: PreTrainedModel, name: str) -> None:
    expected = list(hf_model.get_parameter(name).shape)
    if shape != expected:
        raise InvalidInputError(
            f"{key} has the shape {shape} in the files and {expected} in transformers, so that "
            "nothing can be baked into it; use neurons.to_hooks on the loaded model."
        )


def _copy(
    path: Path,
    part: Path,
    keys: Mapping[str, str],
    changes: Mapping[str, Sequence[_Change]],
    factor: float,
) -> str:
    """Copy one file of weights, scaled; return the digest of the file that was read."""
    with safe_open(path, framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata()
        changed = names & keys.keys()
        tensors = {key: file.get_tensor(key) for key in names} if changed else {}
    for key in changed:
        tensors[key] = _scaled(key, tensors[key], changes[keys[key]], factor)
    if changed:
        save_file(tensors, part / path.name, metadata=metadata)
    else:
        shutil.copyfile(path, part / path.name)
    return _digest(path)


def _scaled(key: str, weight: Tensor, changes: Sequence[_Change], factor: float) -> Tensor:
    scaled = weight.clone()
    for change in changes:
        rows = weight.index_select(change.axis, change.channels)
        scaled.index_copy_(change.axis, change.channels, rows * factor)
    if not torch.isfinite(scaled).all():
        raise InvalidInputError(
            f"{key} times {factor:g} is more than {str(weight.dtype).removeprefix('torch.')} can "
            "hold; take a smaller factor."
        )
    return scaled


def _digest(path: Path) -> str:
    """32 digits that change with any byte of a file."""
    digest = xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yield ``out.part`` to write into; rename it to ``out`` on success, delete it on any failure.

    Raises:
        InvalidInputError: the folder is there already, or another process writes it.
        UnwritableError: it cannot be written.
    """
    if out.exists():
        raise InvalidInputError(f"{out} is there already; give the name of a new folder.")
    part = out.with_name(f"{out.name}.part")
    with locked(out):
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            yield part
            part.rename(out)
        except CulnigError:
            raise
        except (OSError, SafetensorError) as error:
            raise UnwritableError(
                f"{out} cannot be written ({error}); free some space, or choose a folder that you "
                "may write to."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
