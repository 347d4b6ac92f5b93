"""TransformerLens, imported and called so that it sets nothing for the whole process.

Its import makes transformers silent but for errors, has warnings about generation flags ignored,
and imports torch's compiler, which writes its cache folder into the environment. While it reads a
configuration it logs by functions of ``logging`` itself, which give the root logger a handler: from
then on every library's messages are printed. All of it is put back here; what torch, transformers,
datasets and plotly set for themselves at their own import stays.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


@contextmanager
def same_root_logger() -> Iterator[None]:
    """Inside, handlers may be added to the root logger; afterwards they are gone.

    Example:
        >>> before = logging.getLogger().handlers[:]
        >>> with same_root_logger():
        ...     logging.getLogger().addHandler(logging.NullHandler())
        >>> logging.getLogger().handlers == before
        True
    """
    root = logging.getLogger()
    before = root.handlers[:]
    try:
        yield
    finally:
        for handler in [each for each in root.handlers if each not in before]:
            root.removeHandler(handler)


@contextmanager
def _same_process() -> Iterator[None]:
    """Inside, a library may be imported; afterwards nothing global is other than before."""
    environment, verbosity = dict(os.environ), transformers_logging.get_verbosity()
    try:
        with same_root_logger(), warnings.catch_warnings():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


with _same_process():
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.supported_models import MODEL_ALIASES

__all__ = ["MODEL_ALIASES", "TransformerBridge", "build_bridge_from_module", "same_root_logger"]
