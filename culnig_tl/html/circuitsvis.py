"""CircuitsVis (Cooney and Nanda) in notebooks: four of its views, mended and without a network.

| function | shows |
|---|---|
| ``colored_tokens`` | a prompt's tokens, coloured by one number each |
| ``text_neuron_activations`` | prompts coloured by one neuron's activation, chosen from menus |
| ``topk_tokens`` | the tokens at which each neuron is most and least active |
| ``attention_heads`` | where each head attends, one small pattern per head, one of them large |

Arguments have CircuitsVis's names, order and shapes. Of the package only the JavaScript is used,
out of the installed copy. Its Python asks an outside host which script to show; none of it is
imported here. What was measured on 1.43.3, and what is done about it:

- It sets tokens as HTML (``<bos>`` vanishes, ``a<b`` is cut, ``&amp;`` becomes ``&``) and turns any
  white space into U+00A0. Here a token reaches it as an object that hands out escaped HTML where
  HTML is asked for, and the text itself elsewhere: a page's text content is the prompt (NUL becomes
  its symbol).
- Its tokens are boxes, which put right-to-left text into the wrong order and part joined letters;
  here they are inline, and a line breaks where the prompt breaks.
- ``</script>`` in a token ends its script, and its ``<div/>`` is never closed, so that it swallows
  and erases the rest of the page. Here every ``<`` is escaped and every element closed.
- A neuron that is 0 everywhere has no colour and white text, unseen on a white page; here it has
  that of the page.
- ``topk_tokens`` paints whatever exceeds 1 alike; here colours are shares of the largest number.
- ``attention_heads`` takes the white space out of its labels, so that `` a`` and ``a`` look alike;
  here it stands as a symbol.

Left as they are: ``text_neuron_activations`` scales each sign by its own extreme, of the neuron for
one prompt and of everything for several; ``topk_tokens`` paints below zero white, has numbers only
for its columns, and at first shows one column for one prompt and five headings for fewer neurons;
``attention_heads`` paints what a causal head cannot see light grey, on dark pages too.

Each result works alone, whichever cell is run: it carries the script, 1.3 MB that gzip and base64
make 0.48 MB; the first one on a page unpacks it for all (a second copy would have TensorFlow.js
complain of itself). Many views of one prompt are lighter as ``ColouredTokens``, which needs no
script at all.
"""

import gzip
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError, check_flag, check_number
from culnig_tl.html.components import fragment
from culnig_tl.html.tokens import ABOVE, BELOW, Html

__all__ = ["attention_heads", "colored_tokens", "text_neuron_activations", "topk_tokens"]

_FEW = 10
_WHITE_SPACE = str.maketrans(
    {" ": "\N{OPEN BOX}", "\n": "\N{RETURN SYMBOL}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}
)


def colored_tokens(
    tokens: Sequence[str],
    values: Sequence[float] | Float[np.ndarray, "_pos"] | Float[Tensor, "_pos"],
    min_value: float | None = None,
    max_value: float | None = None,
    negative_color: str = f"rgb({BELOW})",
    positive_color: str = f"rgb({ABOVE})",
) -> Html:
    """A prompt's tokens, coloured by one number each; pointing at one shows its number.

    Args:
        tokens: text of each token, e.g. from ``inspection.token_texts``.
        values: number of each token.
        min_value, max_value: ends of the colour scale; by default the largest absolute number on
            both sides. Zero is white.
        negative_color, positive_color: CSS colours; by default those of the figures.

    Raises:
        InvalidInputError: not one finite number per token.

    Example:
        >>> colored_tokens(["<bos>", "a<b"], [0.5, -1.0])
        Html()
    """
    for name, end in (("min_value", min_value), ("max_value", max_value)):
        if end is not None:
            check_number(name, end)
    numbers = _numbers(values, axes=["tokens"])
    _check_tokens(tokens, numbers, axis=0)
    limit = float(numbers.abs().max()) or 1.0
    return _view(
        "ColoredTokens",
        tokens=list(tokens),
        values=_short(numbers),
        minValue=-limit if min_value is None else min_value,
        maxValue=limit if max_value is None else max_value,
        negativeColor=negative_color,
        positiveColor=positive_color,
    )


def text_neuron_activations(
    tokens: Sequence[str] | Sequence[Sequence[str]],
    activations: Float[np.ndarray, "_pos _layer _neuron"]
    | Float[Tensor, "_pos _layer _neuron"]
    | Sequence[Float[np.ndarray, "_pos _layer _neuron"]]
    | Sequence[Float[Tensor, "_pos _layer _neuron"]],
    first_dimension_name: str = "Layer",
    second_dimension_name: str = "Neuron",
    first_dimension_labels: Sequence[str] | None = None,
    second_dimension_labels: Sequence[str] | None = None,
) -> Html:
    """Prompts coloured by the activation of one neuron, with menus for layer and neuron.

    Every number is written into the page (about 8 bytes each), so pass the neurons to look at and
    not a whole layer of a large model.

    Args:
        tokens: text of each token of one prompt, or of several.
        activations: one array ``[tokens layers neurons]`` per prompt.
        first_dimension_name, second_dimension_name: what the menus choose.
        first_dimension_labels, second_dimension_labels: names in the menus; by default numbers.

    Raises:
        InvalidInputError: prompts and arrays, an array and its tokens, or labels and what they
            name do not fit, or a number is not finite.

    Example:
        >>> text_neuron_activations(["<bos>", "tea"], torch.rand(2, 4, 8))
        Html()
    """
    texts, arrays = _samples(tokens, activations)
    numbers = [_numbers(array, axes=["tokens", "layers", "neurons"]) for array in arrays]
    _check_samples(texts, numbers, axis=0)
    _, n_layers, n_neurons = numbers[0].shape
    return _view(
        "TextNeuronActivations",
        tokens=[list(prompt) for prompt in texts],
        activations=[_short(array) for array in numbers],
        firstDimensionName=first_dimension_name,
        secondDimensionName=second_dimension_name,
        firstDimensionLabels=_labels(first_dimension_labels, n_layers, "first_dimension_labels"),
        secondDimensionLabels=_labels(
            second_dimension_labels, n_neurons, "second_dimension_labels"
        ),
    )


def topk_tokens(
    tokens: Sequence[Sequence[str]],
    activations: Sequence[Float[np.ndarray, "_layer _pos _neuron"]]
    | Sequence[Float[Tensor, "_layer _pos _neuron"]],
    max_k: int = _FEW,
    first_dimension_name: str = "Layer",
    third_dimension_name: str = "Neuron",
    sample_labels: Sequence[str] | None = None,
    first_dimension_labels: Sequence[str] | None = None,
) -> Html:
    """The tokens at which each neuron is most and least active, with menus for prompt and layer.

    Args:
        tokens: text of each token of each prompt.
        activations: one array ``[layers tokens neurons]`` per prompt.
        max_k: tokens listed at either end, at most.
        first_dimension_name, third_dimension_name: what menus and columns are.
        sample_labels, first_dimension_labels: names of prompts and layers in the menus.

    Raises:
        InvalidInputError: prompts and arrays, an array and its tokens, or labels and what they
            name do not fit, a number is not finite, or ``max_k`` is below 1.

    Example:
        >>> topk_tokens([["<bos>", "tea"]], [torch.rand(4, 2, 8)])
        Html()
    """
    check_number("max_k", max_k, low=1, whole=True)
    numbers = [_numbers(array, axes=["layers", "tokens", "neurons"]) for array in activations]
    _check_samples(tokens, numbers, axis=1)
    orders = [array.argsort(dim=1, descending=True, stable=True) for array in numbers]
    ends = {
        "topk": [order[:, :max_k] for order in orders],
        "bottomk": [order[:, -max_k:] for order in orders],
    }
    values = {
        f"{end}Vals": [
            _short(array.gather(1, index)) for array, index in zip(numbers, indices, strict=True)
        ]
        for end, indices in ends.items()
    }
    return _view(
        "TopkTokens",
        tokens=[list(prompt) for prompt in tokens],
        limit=max(0.0, *(float(array.max()) for array in numbers)) or 1.0,
        firstDimensionName=first_dimension_name,
        thirdDimensionName=third_dimension_name,
        sampleLabels=_labels(sample_labels, len(tokens), "sample_labels"),
        firstDimensionLabels=_labels(
            first_dimension_labels, len(numbers[0]), "first_dimension_labels"
        ),
        **{f"{end}Idxs": [index.tolist() for index in indices] for end, indices in ends.items()},
        **values,
    )


def attention_heads(
    attention: Float[np.ndarray, "_head _pos _pos"] | Float[Tensor, "_head _pos _pos"],
    tokens: Sequence[str],
    attention_head_names: Sequence[str] | None = None,
    max_value: float | None = None,
    min_value: float | None = None,
    negative_color: str = f"rgb({BELOW})",
    positive_color: str = f"rgb({ABOVE})",
    mask_upper_tri: bool = True,
) -> Html:
    """Where each head attends: a small pattern per head, and the one pointed at or clicked large.

    Every number is written into the page (heads x tokens x tokens, about 7 bytes each), so pass the
    heads of a layer or two, and not a long text.

    Args:
        attention: from each token (row) to each token (column), one pattern per head.
        tokens: text of each token.
        attention_head_names: names of the heads, e.g. ``["L3.H0", "L3.H1"]``; by default numbers.
        max_value, min_value: ends of the colour scale; by default 1 and -1. Zero is white.
        negative_color, positive_color: CSS colours; by default those of the figures.
        mask_upper_tri: leave out what comes after the attending token, which a causal model cannot
            see.

    Raises:
        InvalidInputError: patterns that are not tokens by tokens, a number that is not finite, or
            names that are not one per head.

    Example:
        >>> import culnig_tl as ct
        >>> model, text = ct.load_model(), "The usual staple food in Iran is"
        >>> _, cache = model.run_with_cache(text)
        >>> attention_heads(cache["pattern", 0][0], model.to_str_tokens(text))
        Html()
    """
    for name, end in (("min_value", min_value), ("max_value", max_value)):
        if end is not None:
            check_number(name, end)
    check_flag("mask_upper_tri", mask_upper_tri)
    numbers = _numbers(attention, axes=["heads", "tokens", "tokens"])
    for axis in (1, 2):
        _check_tokens(tokens, numbers, axis=axis)
    return _view(
        "AttentionHeads",
        attention=_short(numbers),
        tokens=[token.translate(_WHITE_SPACE) for token in tokens],
        attentionHeadNames=_labels(attention_head_names, len(numbers), "attention_head_names"),
        minValue=-1.0 if min_value is None else min_value,
        maxValue=1.0 if max_value is None else max_value,
        negativeColor=negative_color,
        positiveColor=positive_color,
        maskUpperTri=mask_upper_tri,
    )


def _samples(tokens: Any, activations: Any) -> tuple[Sequence[Sequence[str]], Sequence[Any]]:
    """Prompts and their arrays, where one prompt may stand alone."""
    if tokens and isinstance(tokens[0], str):
        return [tokens], [activations]
    return tokens, activations


def _numbers(values: Any, *, axes: Sequence[str]) -> Tensor:
    """As a float64 tensor with these axes."""
    if isinstance(values, Tensor):
        numbers = values.detach().cpu().double()
    else:
        numbers = torch.from_numpy(np.asarray(values, dtype=np.float64))
    if numbers.ndim != len(axes):
        raise InvalidInputError(
            f"The numbers have shape {tuple(numbers.shape)}; give one axis each for "
            f"[{' '.join(axes)}]."
        )
    if not numbers.isfinite().all():
        raise InvalidInputError(
            f"{int((~numbers.isfinite()).sum())} of {numbers.numel()} numbers are not finite and "
            "have no colour; replace them."
        )
    return numbers


def _check_tokens(tokens: Sequence[str], numbers: Tensor, *, axis: int) -> None:
    if not numbers.numel():
        raise InvalidInputError(
            f"The numbers have shape {tuple(numbers.shape)}; give at least one token and neuron."
        )
    if len(tokens) != numbers.shape[axis]:
        raise InvalidInputError(
            f"There are {len(tokens)} tokens and numbers of shape {tuple(numbers.shape)}; give as "
            f"many tokens as axis {axis} is long."
        )


def _check_samples(
    tokens: Sequence[Sequence[str]], numbers: Sequence[Tensor], *, axis: int
) -> None:
    if not numbers or len(tokens) != len(numbers):
        raise InvalidInputError(
            f"There are {len(tokens)} prompts and {len(numbers)} arrays; give one array per "
            "prompt, and at least one."
        )
    for prompt, array in zip(tokens, numbers, strict=True):
        _check_tokens(prompt, array, axis=axis)
    rest = {tuple(size for i, size in enumerate(array.shape) if i != axis) for array in numbers}
    if len(rest) > 1:
        raise InvalidInputError(
            f"The arrays have (layers, neurons) of {', '.join(map(str, sorted(rest)))}; give all "
            "prompts the same layers and neurons."
        )


def _labels(labels: Sequence[str] | None, n: int, name: str) -> list[str] | None:
    if labels is not None and len(labels) != n:
        raise InvalidInputError(f"{name} has {len(labels)} names for {n}; give one each.")
    return None if labels is None else list(labels)


def _short(numbers: Tensor) -> list[Any]:
    """As nested lists of numbers of four digits, which is what a page needs."""
    digits = np.vectorize(lambda value: float(f"{value:.4g}"), otypes=[np.float64])
    return digits(numbers.numpy()).tolist()


def _view(component: str, **props: Any) -> Html:
    given = {name: value for name, value in props.items() if value is not None}
    return Html(fragment("circuitsvis.html", component=component, props=given, packed=_script()))


@cache
def _script() -> str:
    """CircuitsVis's JavaScript, packed; the address of its source map is left out."""
    package = find_spec("circuitsvis")  # finds it without running any of it
    assert package is not None
    assert package.origin is not None
    script = Path(package.origin).parent / "dist" / "cdn" / "iife.js"
    source, _, _ = script.read_text(encoding="utf-8").partition("//# sourceMappingURL=")
    return b64encode(gzip.compress(source.encode(), mtime=0)).decode()
