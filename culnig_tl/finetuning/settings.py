"""How a model is fine-tuned; the defaults of ``finetune`` are the paper's."""

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

from culnig_tl.errors import InvalidInputError, check_choice, check_number, check_seed

Method = Literal["direct", "lora"]
TrainedDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """The settings of ``finetune``, which says what they are; checked when made.

    Raises:
        InvalidInputError: a value that cannot be used, or ``method="lora"`` without peft.
    """

    method: Method
    learning_rate: float | int
    epochs: float | int
    batch_size: int
    accumulation: int
    weight_decay: float | int
    seed: int
    dtype: TrainedDtype
    lora_rank: int
    max_steps: int | None
    checkpoint_every: int | None
    early_stop: int | None

    def __post_init__(self) -> None:
        check_choice("method", self.method, get_args(Method))
        check_choice("dtype", self.dtype, get_args(TrainedDtype))
        check_number("learning_rate", self.learning_rate, low=0)
        check_number("epochs", self.epochs, low=0.001)
        check_number("weight_decay", self.weight_decay, low=0)
        check_seed(self.seed)
        for name in ("batch_size", "accumulation", "lora_rank"):
            check_number(name, getattr(self, name), low=1, whole=True)
        for name in ("max_steps", "checkpoint_every", "early_stop"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low=1, whole=True)
        if self.method == "lora" and find_spec("peft") is None:
            raise InvalidInputError(
                "method is 'lora' and the package peft is not installed; install it by "
                "pip install 'culnig-tl[finetune]', or take method='direct'."
            )

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on."""
        without = set() if self.method == "lora" else {"lora_rank"}
        if self.early_stop is None:
            without.add("checkpoint_every")
        return {name: value for name, value in asdict(self).items() if name not in without}
