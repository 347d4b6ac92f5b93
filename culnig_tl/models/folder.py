"""What a model folder says of itself, checked before transformers builds anything of it.

    config.json                    -> an object; it names no kernels of the hub, no other weights
    model.safetensors or its index -> files in the folder itself; names and shapes of their weights
    both                           -> no more layers, and no larger sizes, than the files hold

transformers fills with random numbers what a configuration has and the files have not, leaves out
what the files have and the configuration has not, and takes memory for both before it compares
them. Nothing here reads a weight: a safetensors file begins with its names and shapes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from safetensors import safe_open
from transformers import PretrainedConfig

from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.files import read_json

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of every weight, by its name in the files."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "head_dim", "n_positions"),
    *("num_attention_heads", "num_key_value_heads", "num_local_experts", "num_experts"),
)
_ANY_SIZE = 2**16  # of what a configuration may name and no weight has
_KERNELS = ("attn_implementation", "experts_implementation")
_TORCH = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHER_LIBRARIES = (".h5", ".msgpack", ".onnx", ".npz", ".ot")


def check_config(name: str, config: Any) -> None:
    """Refuse a configuration that is none, or that sends transformers elsewhere.

    Args:
        name: what the user asked for.
        config: the content of config.json.

    Raises:
        InvalidInputError: no object, a kernel of the hub, or weights that are not safetensors files
            beside it.

    Example:
        >>> check_config("my-model", {"model_type": "llama"})
        >>> check_config("my-model", {"attn_implementation": "somebody/kernel"})
        Traceback (most recent call last):
        ...
        culnig_tl.errors.InvalidInputError: The config.json of my-model asks for the code of ...
    """
    if not isinstance(config, dict):
        raise InvalidInputError(
            f"The config.json of {name} holds a {type(config).__name__}, expected an object; save "
            "or download the model again."
        )
    kernels = [
        value
        for each in _objects(config)
        for key, value in each.items()
        if key.endswith(_KERNELS) and "/" in str(value)
    ]
    if kernels:
        raise InvalidInputError(
            f"The config.json of {name} asks for the code of {kernels[0]!r} on the hub, which is "
            f"not run; take {' and '.join(_KERNELS)} out of it."
        )
    weights = config.get("transformers_weights")
    if weights is not None and not _is_beside(weights, ".safetensors", ".safetensors.index.json"):
        raise InvalidInputError(
            f"The config.json of {name} names {weights!r} as its weights, expected a safetensors "
            "file beside it; take transformers_weights out of it."
        )


def check_weights(folder: Path, options: Mapping[str, Any]) -> None:
    """Refuse a folder whose weights are not safetensors, with how to make them so.

    Raises:
        InvalidInputError: weights that are pickles, or of another library.
        MissingFileError: no weights at all.
    """
    if _files(folder, options) or not options.get("use_safetensors", True):
        return
    names = sorted(path.name for path in _place(folder, options).iterdir())
    if pickles := [name for name in names if name.endswith(_TORCH)]:
        raise InvalidInputError(
            f"The weights in {folder} are pickles ({pickles[0]}), which can run code when they are "
            f"read. If you trust them, convert them once: {_conversion(folder, pickles)}"
        )
    if others := [name for name in names if name.endswith(_OTHER_LIBRARIES)]:
        raise InvalidInputError(
            f"The weights in {folder} are those of another library ({others[0]}), and only "
            "safetensors are read; convert them once with transformers 4: "
            f"AutoModelForCausalLM.from_pretrained({str(folder)!r}, from_tf=True)"
            f".save_pretrained({str(folder)!r}), or from_flax=True."
        )
    raise MissingFileError(
        f"There are no weights in {folder}: it has neither model.safetensors nor "
        "model.safetensors.index.json; save or download the model again."
    )


def shapes(folder: Path, options: Mapping[str, Any]) -> Shapes:
    """The shape of every weight in a folder's safetensors files, none of which is read.

    Args:
        folder: in Hugging Face layout.
        options: for ``from_pretrained``; ``variant`` and ``subfolder`` say which files.

    Raises:
        InvalidInputError: an index that is none, or that names files outside of the folder.
        MissingFileError: an index that names files which are not there.
        SafetensorError: a file that is damaged.

    Example:
        >>> from culnig_tl.atlas import ASSETS
        >>> shapes(ASSETS, {})["model.norm.weight"]
        (128,)
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for path in _files(folder, options):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            sizes |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
    return sizes


def check_sizes(name: str, config: PretrainedConfig, weights: Shapes) -> None:
    """Refuse a configuration of a larger model than the files hold, before memory is taken for it.

    Raises:
        InvalidInputError: a size that no weight has and no model needs.
        MissingFileError: more layers than the files hold.
    """
    text = config.get_text_config()
    numbers = [int(match[1]) for key in weights if (match := _LAYER.search(key))]
    n_layers = getattr(text, "num_hidden_layers", None)
    if numbers and isinstance(n_layers, int) and n_layers > max(numbers) + 1:
        raise MissingFileError(
            f"{name!r} has a config.json of {n_layers} layers and weights of {max(numbers) + 1}; "
            "the two are not of the same model, or files of it are not there."
        )
    largest = max(_ANY_SIZE, *(size for shape in weights.values() for size in shape))
    for field in _SIZES:
        size = getattr(text, field, None)
        if isinstance(size, int | float) and not size <= largest:
            raise InvalidInputError(
                f"{name!r} has a config.json with {field} {size:g}, and no weight in its files is "
                f"larger than {largest}; the two are not of the same model."
            )


def layer_of(key: str) -> tuple[str, int, str] | None:
    """The list of layers that a weight is in, its number in it, and the rest of its name.

    Example:
        >>> layer_of("model.layers.3.mlp.up_proj.weight")
        ('model.layers', 3, 'mlp.up_proj.weight')
    """
    if match := _LAYER.search(key):
        return key[: match.start(1) - 1], int(match[1]), key[match.end() :]
    return None


def own_code(folder: Path) -> str:
    """The code that a folder asks for, as it calls it; "" where it asks for none.

    Example:
        >>> from culnig_tl.atlas import ASSETS
        >>> own_code(ASSETS)
        ''
    """
    paths = [folder / name for name in ("config.json", "tokenizer_config.json")]
    contents = [read_json(path) for path in paths if path.is_file()]
    maps = [each.get("auto_map") for each in contents if isinstance(each, dict)]
    return ", ".join(dict.fromkeys(text for each in maps for text in _texts(each)))


def _objects(content: Any) -> Iterator[dict[str, Any]]:
    """An object of JSON, and every object within it."""
    if isinstance(content, dict):
        yield content
        for value in content.values():
            yield from _objects(value)


def _texts(content: Any) -> Iterator[str]:
    """The texts in a value of JSON, or in the lists and objects within it."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _texts(value)


def _is_beside(name: Any, *endings: str) -> bool:
    """Whether this is the name of a file, not of one in another folder."""
    return isinstance(name, str) and PureWindowsPath(name).name == name and name.endswith(endings)


def _place(folder: Path, options: Mapping[str, Any]) -> Path:
    return folder / (options.get("subfolder") or "")


def _files(folder: Path, options: Mapping[str, Any]) -> list[Path]:
    """The safetensors files that transformers would take; none where there are none."""
    place = _place(folder, options)
    variant = f".{options['variant']}" if options.get("variant") else ""
    whole = place / f"model{variant}.safetensors"
    index = place / f"model.safetensors.index{variant}.json"
    config = read_json(place / "config.json")
    if isinstance(config, dict) and (named := config.get("transformers_weights")):
        whole = index = place / named
    if whole.is_file() and whole.suffix == ".safetensors":
        return [whole]
    return _shards(index) if index.is_file() else []


def _shards(index: Path) -> list[Path]:
    """The files that an index names, in the order of their names."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise InvalidInputError(
            f"{index} has no weight_map, an object with the file of each weight; save or download "
            "the model again."
        )
    names = sorted(set(map(str, places.values())))
    if outside := [name for name in names if not _is_beside(name, ".safetensors")]:
        raise InvalidInputError(
            f"{index} names {outside[0]!r} as a file of weights, expected safetensors files beside "
            "it; put the file there, or save the model again."
        )
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise MissingFileError(
            f"{index.parent} is incomplete: {len(missing)} of {len(names)} files of weights are "
            f"not there, e.g. {missing[0]}; download the model again."
        )
    return [index.parent / name for name in names]


def _conversion(folder: Path, pickles: Sequence[str]) -> str:
    """How to make safetensors out of pickles: of those that transformers reads, or of any."""
    if any(re.fullmatch(r"pytorch_model.*\.bin", name) for name in pickles):
        return (
            f"AutoModelForCausalLM.from_pretrained({str(folder)!r}, use_safetensors=False)"
            f".save_pretrained({str(folder)!r}); or pass use_safetensors=False here."
        )
    path, out = str(folder / pickles[0]), str(folder / "model.safetensors")
    return (
        f"safetensors.torch.save_file(torch.load({path!r}, map_location='cpu', weights_only=True), "
        f"{out!r}, {{'format': 'pt'}})."
    )
