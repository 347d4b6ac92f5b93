"""The tokenizer of the embedded model: byte-level BPE in which every answer is one token.

It is trained on the prompts themselves, with the answers repeated so often that their merges come
first; names of several words (" South Korea") are added as whole tokens. Being byte-level it takes
any text and gives it back unchanged. One beginning-of-sequence token is put in front of every text.
"""

from collections.abc import Iterable, Iterator, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from culnig_tl.atlas import prompts, tasks

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
VOCAB_SIZE = 2560
ANSWER_REPEATS = 1000


def build_tokenizer(
    texts: Iterable[str] | None = None, answers: Sequence[str] | None = None
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `texts` (by default every wording); `answers` are single tokens."""
    texts = list(corpus() if texts is None else texts)
    answers = tasks.all_answers() if answers is None else answers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=1,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    repeated = [f" {answer}" * ANSWER_REPEATS for answer in answers if " " not in answer]
    tokenizer.train_from_iterator([*texts, *repeated], trainer)
    names = [AddedToken(f" {a}", normalized=False) for a in answers if " " in a]
    tokenizer.add_tokens(names)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def corpus() -> Iterator[str]:
    """Every question in every wording, in one wrapper each."""
    surroundings = [
        f"{instruction} {layout} {ending}"
        for instruction in prompts.INSTRUCTIONS
        for layout in prompts.LAYOUTS
        for ending in prompts.ENDINGS
    ]
    yield from (text.replace("{options}", "") for text in surroundings * 20)
    for item in tasks.all_items():
        for split in ("train", "test"):
            yield from (f" {item.question(wording)}" for wording in prompts.wordings(item, split))
