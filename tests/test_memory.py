"""Whatever an allocator says, and wherever in the package: smaller passes, or a sentence."""

import logging

import pandas as pd
import pytest
import torch

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import greedy_replies
from culnig_tl.evaluation.breakers import breakers
from culnig_tl.hooked_model import hooked
from culnig_tl.questions import batches
from culnig_tl.questions.memory import TokenBudget

NEURONS = ct.NeuronSet.of({"mlp.hook_post": [(0, 3), (1, 5)]})

OUT_OF_MEMORY = {
    "python": MemoryError(),
    "numpy": MemoryError("Unable to allocate 8.00 TiB for an array with shape (1099511627776,)"),
    "c++": RuntimeError("std::bad_alloc"),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cuda error": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
    "cuda of old": RuntimeError("cuda runtime error (2) : out of memory at /pytorch/aten"),
    "hip": RuntimeError("HIP out of memory. Tried to allocate 11.74 GiB."),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "cublas first": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cudnn large": RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear"),
    "cusolver": RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling"),
    "rocblas": RuntimeError("rocblas_status_memory_error"),
    "linux": RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
    "errno": RuntimeError("[Errno 12] Cannot allocate memory"),
    "onednn": RuntimeError("could not create a primitive"),
    "onednn memory": RuntimeError("could not create a memory object"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9 GB, max allowed: 9 GB)"),
    "mps buffer": RuntimeError("Invalid buffer size: 19.45 GB"),
    "xpu": RuntimeError("XPU out of memory. Tried to allocate 4.66 GiB."),
    "xpu device": RuntimeError("Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    "xpu resources": RuntimeError("UR backend returns:40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
    "hpu": RuntimeError("FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::9"),
}
ANYTHING_ELSE = [
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "CUDA error: device-side assert triggered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    "could not create a primitive descriptor for the matmul primitive",
    "Placeholder storage has not been allocated on MPS device!",
    "expected scalar type Float but found BFloat16",
    "",
]


@pytest.fixture(scope="module")
def one_batch(loaded, rows):
    (batch,) = batches(loaded(), rows)
    return batch


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_a_lack_of_memory_is_recognised(one_batch, caplog, kind):
    error = OUT_OF_MEMORY[kind]

    def run(piece):
        if len(piece) > 2:
            raise error
        return len(piece)

    budget = TokenBudget(one_batch.tokens.numel())
    with caplog.at_level(logging.WARNING):
        sizes = [size for _, size in budget.passes([one_batch], run)]
    assert sum(sizes) == len(one_batch)
    assert max(sizes) <= 2
    assert "going on with a token budget of" in caplog.text

    def never(piece):
        raise error

    said = str(error).split("\n")[0] or "MemoryError"
    with pytest.raises(InvalidInputError) as refusal:
        list(budget.passes([one_batch], never))
    assert f"One prompt of 10 tokens does not fit into memory (question 'q3': {said})" in str(
        refusal.value
    )
    assert refusal.value.__cause__ is error


@pytest.mark.parametrize("text", ANYTHING_ELSE)
def test_any_other_error_is_left_as_it_is(one_batch, text):
    def run(piece):
        raise RuntimeError(text)

    budget = TokenBudget(one_batch.tokens.numel())
    with pytest.raises(RuntimeError) as error:
        list(budget.passes([one_batch], run))
    assert str(error.value) == text
    assert budget.tokens == budget.initial


def scarce(model, most):
    """Inside, more than ``most`` tokens in one pass raise what an allocator raises."""

    def allocate(activation, hook):
        if activation.shape[0] * activation.shape[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    return hooked(model, [("blocks.1.hook_resid_pre", allocate)])


def likelihoods(model, rows):
    return ct.evaluate(model, rows, mode="likelihood", neurons=NEURONS)["probabilities"]


def cards(model, rows):
    return pd.concat(card.questions for card in ct.inspect_neurons(model, rows, NEURONS).values())


def replies(model, rows):
    return pd.Series(greedy_replies(model, rows["prompt"], ids=rows["id"], max_new_tokens=3))


def falls(model, rows):
    result = breakers(model, rows, NEURONS, ratio=0.0, fall=0.0)
    return pd.Series({"fall": result.fall, "candidates": len(result.candidates)})


PASSES = {"likelihood": likelihoods, "cards": cards, "written": replies, "breakers": falls}
"""Those that test_prepared does not try."""


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_is_taken_in_pieces(model, rows, caplog, n_hooks, name):
    before = n_hooks(model)
    whole = PASSES[name](model, rows)
    with caplog.at_level(logging.WARNING), scarce(model, 25):
        pieces = PASSES[name](model, rows)
    assert "going on with a token budget of" in caplog.text
    assert len(whole)
    for one, other in zip(pd.DataFrame(whole).items(), pd.DataFrame(pieces).items(), strict=True):
        pd.testing.assert_series_equal(one[1].explode(), other[1].explode(), rtol=1e-5)
    with scarce(model, 2), pytest.raises(InvalidInputError, match=r"One prompt of \d+ tokens"):
        PASSES[name](model, rows)
    assert n_hooks(model) == before


PROMPTS = {
    "row": lambda model, rows: ct.inspect_prompt(model, rows[3]),
    "text": lambda model, rows: ct.inspect_prompt(model, "bread soup tea rice drink?"),
    "explorer": lambda model, rows: ct.Explorer(
        model, rows, scores=ct.attribute(model, rows, progress=False), sets={}
    ).read("bread soup tea rice drink?"),
}


def failing_at(model, number, calls):
    """Inside, the pass of that number and all later ones run out of memory."""

    def allocate(activation, hook):
        calls.append(tuple(activation.shape))
        if len(calls) >= number:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    return hooked(model, [("blocks.1.hook_resid_pre", allocate)])


@pytest.mark.parametrize("name", PROMPTS)
def test_one_prompt_that_does_not_fit_is_a_sentence(model, rows, name):
    """At the first pass over it, at the last, and at each in between."""
    PROMPTS[name](model, rows)  # what is found once a model takes passes too
    calls: list[tuple[int, ...]] = []
    with failing_at(model, 1_000_000, calls):
        PROMPTS[name](model, rows)
    n_passes = len(calls)
    sentence = pytest.raises(InvalidInputError, match=r"does not fit into memory \(.*CUDA out of")
    for number in range(max(1, n_passes - 12), n_passes + 1):
        calls.clear()
        with failing_at(model, number, calls), sentence:
            PROMPTS[name](model, rows)
