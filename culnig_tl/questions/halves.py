"""Two halves of one's own questions: one to find neurons with, one to measure them."""

from typing import Literal, get_args

import numpy as np
from datasets import Dataset

from culnig_tl.errors import InvalidInputError, check_choice, check_seed
from culnig_tl.questions.schema import questions

SplitBy = Literal["topic", "id"]


def split(rows: Dataset, *, by: SplitBy = "topic", seed: int = 0) -> tuple[Dataset, Dataset]:
    """Rows to identify with, and rows to test with; no topic (or question) is in both.

    Args:
        rows: questions.
        by: ``"topic"`` deals whole topics, the stricter test; ``"id"`` deals whole questions, with
            all their wordings and cultures.
        seed: seed of the deal.

    Returns:
        Two data sets with as many topics (or questions) each, the first with one more where their
        number is odd; rows keep their order.

    Raises:
        InvalidInputError: rows that cannot be used, or fewer than two topics (or questions).

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="all")
        >>> [sorted(set(half["topic"])) for half in split(rows, by="topic", seed=1)]
        [['Education', 'Food', 'Sport'], ['Family', 'Holidays/Celebration/Leisure', 'Work life']]
    """
    check_choice("by", by, get_args(SplitBy))
    check_seed(seed)
    rows = questions(rows)
    groups = sorted(set(rows[by]))
    if len(groups) < 2:
        raise InvalidInputError(
            f"All {len(rows)} rows have the same {by} ({groups[0]!r}), which cannot be halved; "
            f"split by {'id' if by == 'topic' else 'topic'}, or give more rows."
        )
    first = set(np.random.default_rng(seed).permutation(groups)[: -(-len(groups) // 2)].tolist())
    is_first = np.array([group in first for group in rows[by]])
    return rows.select(np.flatnonzero(is_first)), rows.select(np.flatnonzero(~is_first))
