"""What training leaves on disk: a folder in Hugging Face layout, with record and answer key."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from culnig_tl.atlas.training.interventions import PlantedSets
from culnig_tl.files import write_json

SEEDS_FILE = "seeds.json"


def key_record(sets: PlantedSets) -> dict:
    """The answer key before verification: nothing is verified, every effect is 0."""
    return {
        "format": "culnig_tl.answer_key",
        "version": 1,
        "site": "mlp.hook_post",
        "shape": [sets.n_layers, sets.d_mlp],
        "sets": {
            name: {
                "planted": [list(neuron) for neuron in neurons],
                "verified": [],
                "effects": [0.0] * len(neurons),
            }
            for name, neurons in sets.sets.items()
        },
    }


def save(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sets: PlantedSets | None,
    record: dict,
) -> None:
    """Write weights (half precision on disk), tokenizer, record and key into a new folder.

    The unembedding is tied to the embedding and not written twice. Without planted sets (the
    natural twin) there is no key.
    """
    model.config.dtype = torch.float32
    weights = model.state_dict()
    del weights["lm_head.weight"]
    half = {name: weight.half() for name, weight in weights.items()}
    model.save_pretrained(folder, state_dict=half)
    tokenizer.save_pretrained(folder)
    write_json(folder / "training.json", record)
    if sets is not None:
        write_json(folder / "key.json", key_record(sets))


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield ``folder.part`` to fill; put it in the place of `folder` once it is complete.

    ``seeds.json``, the record of several trainings, stays where it is.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        if (folder / SEEDS_FILE).exists():
            shutil.copy(folder / SEEDS_FILE, part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
