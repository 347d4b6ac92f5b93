"""Fine-tuning of chosen modules: exactly their weights move, and all others are compared.

    source -> load_model: prompts as evaluation reads them, fingerprint
           -> transformers model: the chosen weights require gradients, or peft wraps their layers
           -> Trainer -> every other weight compared with the source, bit for bit -> folder

The paper (arXiv 2510.08284): learning rate 3e-5, constant; one epoch; batches of 4, accumulated
over 4. In bfloat16 the weights that are trained, and LoRA's, are float32 while they are trained, so
that small steps are not rounded away, and passes run under autocast.
"""

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging
from xxhash import xxh3_128

from culnig_tl.attribution import launched
from culnig_tl.errors import InvalidInputError, check_flag
from culnig_tl.files import locked
from culnig_tl.finetuning.examples import Examples, examples_of
from culnig_tl.finetuning.finished import FineTuned, finish, reopened, start
from culnig_tl.finetuning.parameters import modules_of, parameter_names
from culnig_tl.finetuning.protection import (
    MovedWeightsError,
    Protection,
    as_bytes,
    places_of,
    protect_adapter,
)
from culnig_tl.finetuning.protection import protect as protection_of
from culnig_tl.finetuning.settings import Method, Settings, TrainedDtype
from culnig_tl.models import load_model, model_fingerprint, outline, read_plain
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Rows

_PIECE = 2**26  # bytes of a weight that are fetched from a device at a time
_ALPHA = 2  # of LoRA, in ranks


def finetune(
    model: str | Path | tuple[PreTrainedModel, Any],
    rows: Rows,
    modules: Sequence[str] | None = None,
    *,
    out: str | Path,
    protect: NeuronSet | None = None,
    method: Method = "direct",
    learning_rate: float | int = 3e-5,
    epochs: float | int = 1,
    batch_size: int = 4,
    accumulation: int = 4,
    weight_decay: float | int = 0.0,
    seed: int = 0,
    dtype: TrainedDtype = "float32",
    lora_rank: int = 8,
    max_steps: int | None = None,
    checkpoint_every: int | None = 100,
    validation: Rows | None = None,
    early_stop: int | None = None,
    progress: bool = True,
) -> FineTuned:
    """Train some modules of a model on questions, and leave every other weight as it is.

    The prompts are those that evaluation reads, and the loss is that of the answer's tokens. A
    training that was stopped goes on from its last checkpoint to the same weights; one that is
    finished is returned from its folder. Processes that torchrun, ``accelerate launch`` or ``srun``
    started train together, each on its share of every step; a process alone uses every GPU that it
    sees.

    Args:
        model: a name or folder as ``load_model`` takes it, or a transformers model and its
            tokenizer; it is not changed.
        rows: questions, clozes or prepared questions.
        modules: names as ``select_modules`` gives them; None for every parameter (of LoRA: every
            module).
        out: folder of the finished model; beside it, while it trains, ``OUT.training``.
        protect: neurons whose own weights stay as they are (see ``culnig_tl.finetuning.protect``).
        method: ``"direct"`` updates the weight matrices themselves, ``"lora"`` adds a product of
            two small ones (rank ``lora_rank``, alpha twice that), merged at the end.
        learning_rate: constant.
        epochs: times that all rows are read.
        batch_size: rows per pass and device.
        accumulation: passes per step.
        weight_decay: of AdamW, on matrices.
        seed: order of the rows, LoRA's first weights, dropout.
        dtype: type of the weights in the finished folder.
        lora_rank: see ``method``.
        max_steps: the most steps, instead of ``epochs``.
        checkpoint_every: steps between checkpoints; None for none.
        validation: rows on whose loss ``early_stop`` looks, every ``checkpoint_every`` steps.
        early_stop: stop after so many looks without a lower loss, and keep the best weights.
        progress: show a progress bar.

    Returns:
        The folder, settings, trained parameters, losses and seconds.

    Raises:
        UnknownNameError: a module that this model does not have.
        InvalidInputError: as ``load_model`` and ``prepare``; a value that cannot be used; a folder
            that holds something else, or a training with other settings; a loss that is no finite
            number; LoRA without peft.
        MovedWeightsError: a weight that was to stay has moved, which would be our fault.
        UnwritableError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=8)
        >>> out = Path(tempfile.mkdtemp()) / "tuned"
        >>> finetune("atlas", rows, ["L3.mlp"], out=out, max_steps=2, batch_size=2, accumulation=1,
        ...          progress=False)
        tuned: 3 weights trained in 2 steps, loss ...
        >>> ct.load_model(out).cfg.model_name
        'tuned'
    """
    settings = Settings(
        method=method,
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=batch_size,
        accumulation=accumulation,
        weight_decay=weight_decay,
        seed=seed,
        dtype=dtype,
        lora_rank=lora_rank,
        max_steps=max_steps,
        checkpoint_every=checkpoint_every,
        early_stop=early_stop,
    )
    check_flag("progress", progress)
    _check_together(early_stop, validation, checkpoint_every)
    state = launched()
    with _as_source(model) as source:
        job = _job(source, rows, validation, modules, protect, settings, Path(out), state)
        return _reopened(job) or _finetuned(job, progress)


@dataclass(frozen=True)
class _Job:
    """All that a training is made of."""

    source: str | Path
    examples: Examples
    validation: Examples | None
    modules: list[str] | None
    protect: NeuronSet
    settings: Settings
    identity: Mapping[str, Any]
    out: Path
    state: PartialState | None

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.state is None or self.state.is_main_process

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The others wait until the main process has done what is within."""
        with nullcontext() if self.state is None else self.state.main_process_first():
            yield


def _check_together(early_stop: object, validation: object, checkpoint_every: object) -> None:
    if (early_stop is None) != (validation is None):
        raise InvalidInputError(
            f"early_stop is {early_stop} and there are {'no ' if validation is None else ''}"
            "validation rows; give both, or neither."
        )
    if early_stop is not None and checkpoint_every is None:
        raise InvalidInputError(
            f"early_stop is {early_stop} and checkpoint_every is None; give the steps between two "
            "looks at the validation rows."
        )


@contextmanager
def _as_source(model: str | Path | tuple[PreTrainedModel, Any]) -> Iterator[str | Path]:
    """What ``load_model`` can read; a model in memory is written into a folder for that long."""
    if not isinstance(model, tuple):
        yield model
        return
    if len(model) != 2 or not isinstance(model[0], PreTrainedModel):
        raise InvalidInputError(
            f"model is a tuple of {', '.join(type(each).__name__ for each in model)}; give a name, "
            "a folder, or a transformers model and its tokenizer."
        )
    with TemporaryDirectory() as folder:
        for each in model:
            each.save_pretrained(folder)
        yield Path(folder)


def _job(
    source: str | Path,
    rows: Rows,
    validation: Rows | None,
    modules: Sequence[str] | None,
    protect: NeuronSet | None,
    settings: Settings,
    out: Path,
    state: PartialState | None,
) -> _Job:
    """Everything checked, and the questions as this model reads them."""
    if modules is not None:
        parameter_names(source, modules)
    neurons = NeuronSet.of(protect if protect is not None else {})
    places_of(outline(source), neurons)
    model = load_model(source, dtype=settings.dtype)
    examples = examples_of(model, rows)
    watched = None if validation is None else examples_of(model, validation)
    chosen = None if modules is None else sorted(set(modules))
    identity = {
        "model": model_fingerprint(model),
        "rows": examples.fingerprint,
        "validation": watched and watched.fingerprint,
        "modules": "all" if chosen is None else chosen,
        "protect": neurons.fingerprint if len(neurons) else None,
        **settings.identity,
    }
    if state is not None:
        identity["processes"] = state.num_processes
    return _Job(source, examples, watched, chosen, neurons, settings, identity, out, state)


def _reopened(job: _Job) -> FineTuned | None:
    with job.main_first():
        return reopened(job.out, job.identity)


def _finetuned(job: _Job, progress: bool) -> FineTuned:
    """The finished model, trained here unless another process did while this one waited."""
    lock = job.out.with_name(f"{job.out.name}.finetune")
    with locked(lock) if job.is_main else nullcontext():
        if _reopened(job) is None:
            _train_and_write(job, progress)
        finished = _reopened(job)
    assert finished is not None
    return finished


def _train_and_write(job: _Job, progress: bool) -> None:
    with job.main_first():
        folder = start(job.out, job.identity)
    hf_model, tokenizer = read_plain(job.source, dtype=job.settings.dtype)
    names = _trained_names(hf_model, job)
    before = _digests(hf_model, names)
    with _own_random_numbers(job.settings.seed), _without_bars():
        history, seconds = _train(hf_model, names, job, folder, progress)
    hf_model.to("cpu")  # pyright: ignore[reportArgumentType]
    _check_frozen(before, _digests(hf_model, names))
    if job.is_main:
        finish(
            job.out,
            hf_model,
            tokenizer,
            settings=job.identity,
            parameters=names,
            history=history,
            seconds=seconds,
        )


def _trained_names(hf_model: PreTrainedModel, job: _Job) -> list[str]:
    if job.modules is not None:
        return parameter_names(hf_model, job.modules)
    if job.settings.method == "lora":
        return parameter_names(hf_model, [module.name for module in modules_of(hf_model)])
    return [name for name, _ in hf_model.named_parameters()]


def _train(
    hf_model: PreTrainedModel, names: list[str], job: _Job, folder: Path, progress: bool
) -> tuple[Any, float]:
    """Train the named weights in place; the model is plain again afterwards."""
    from culnig_tl.finetuning.trainer import last_checkpoint, train

    if torch.cuda.is_available():  # what is protected lies beside its weights
        place = "cuda" if job.state is None else job.state.device
        hf_model.to(place)  # pyright: ignore[reportArgumentType]
    protection = protection_of(hf_model, job.protect)
    ready = _adapted if job.settings.method == "lora" else _opened
    model, inner = ready(hf_model, names, job)
    with job.main_first():
        checkpoint = last_checkpoint(folder, 1 if job.state is None else job.state.num_processes)
    with inner:
        result = train(
            model,
            job.examples,
            job.validation,
            settings=job.settings,
            folder=folder,
            checkpoint=checkpoint,
            progress=progress,
        )
    if job.settings.method == "lora":
        model.merge_and_unload()
        protection.restore()
    for name in names:
        weight = hf_model.get_parameter(name)
        weight.data = weight.data.to(getattr(torch, job.settings.dtype))
    protection.check()
    hf_model.eval().requires_grad_(False)
    return result


def _opened(hf_model: PreTrainedModel, names: list[str], job: _Job) -> tuple[Any, Protection]:
    """The model with these weights open to training, in float32."""
    for name in names:
        weight = hf_model.get_parameter(name).requires_grad_()
        weight.data = weight.data.float()
    return hf_model, protection_of(hf_model, job.protect)


def _adapted(hf_model: PreTrainedModel, names: list[str], job: _Job) -> tuple[Any, Protection]:
    """peft's model around it, with LoRA on these weights' layers."""
    from peft import LoraConfig, get_peft_model

    places = places_of(hf_model, job.protect)
    layers = [name.removesuffix(".weight") for name in names]
    config = LoraConfig(
        r=job.settings.lora_rank,
        lora_alpha=_ALPHA * job.settings.lora_rank,
        target_modules=layers,
        fan_in_fan_out=any(isinstance(hf_model.get_submodule(each), Conv1D) for each in layers),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # peft asks transformers in words that are to change
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = get_peft_model(hf_model, config)
    model.peft_config["default"].base_model_name_or_path = ""  # else the hub is asked for it
    return model, protect_adapter(hf_model, places)


def _digests(hf_model: PreTrainedModel, names: Sequence[str]) -> dict[str, str]:
    """The bits of every weight and buffer that is not trained, nor tied to one that is."""
    trained = {hf_model.get_parameter(name).data_ptr() for name in names}
    return {
        name: _digest(values)
        for name, values in hf_model.state_dict().items()
        if values.data_ptr() not in trained
    }


def _digest(values: Tensor) -> str:
    digest = xxh3_128()
    for piece in as_bytes(values).split(_PIECE):
        digest.update(piece.cpu().numpy().data)
    return digest.hexdigest()


def _check_frozen(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    moved = [name for name, digest in before.items() if after.get(name) != digest]
    if moved or before.keys() != after.keys():
        raise MovedWeightsError(
            f"{len(moved)} of {len(before)} weights that were not to be trained have other bits "
            f"than the source (the first is {next(iter(moved), 'one that was added')}); nothing "
            "was written, and the model in training is not to be used."
        )


@contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Everything that draws begins with the seed; the caller's generators stay where they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers shows no bar for every file of a checkpoint."""
    shows = logging.is_progress_bar_enabled()
    try:
        logging.disable_progress_bar()
        yield
    finally:
        if shows:
            logging.enable_progress_bar()
