"""What the selectivity of a set of neurons means, in a plain sentence.

Questions about everyday life and about geography are kept apart, since a set that moves geography
alone carries country knowledge, not culture.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from culnig_tl.evaluation.selectivity import ENOUGH_SETS
from culnig_tl.evaluation.summary import condition_labels, random_kinds

EVERYDAY, GEOGRAPHY = "cloze-everyday", "cloze-geography"
"""The benchmarks that ``verdict`` tells apart."""
MOST_GENERAL_FALL = 0.2
"""A set that takes more from general questions than this is not about culture alone."""

_SELECTIVE = "selective"


def verdict(frame: pd.DataFrame) -> dict[str, str]:
    """What the selectivity of each condition means, in one plain sentence.

    A condition is selective on a benchmark if the interval by clusters of its selectivity lies
    above 0 and it is more selective than each of at least ``ENOUGH_SETS`` layer-matched sets.
    Selective on questions about everyday life means culture; on geography alone, country knowledge.
    A selective set may still take much from general questions: above ``MOST_GENERAL_FALL`` the
    sentence says that it is not culture alone.

    Args:
        frame: the frame of ``selectivity``.

    Returns:
        A sentence by condition (as ``condition_labels`` has it); random sets, and conditions of
        several sets, have none.

    Example:
        >>> frame = pd.DataFrame({"benchmark": [EVERYDAY, GEOGRAPHY], "condition": "mine",
        ...     "factor": 0.0, "n_sets": 1, "n_matched": 19, "beats_matched": [False, True],
        ...     "fall": [0.3, 0.9], "general_fall": 0.1,
        ...     "selectivity_cluster_low": [-0.1, 0.6], "selectivity_cluster_high": [0.5, 0.9]})
        >>> verdict(frame)["mine"].partition(":")[0]
        'This is country knowledge'
    """
    table = frame.assign(label=condition_labels(frame))
    table = table[(table["n_sets"] == 1) & (random_kinds(table) == "")]
    return {
        str(label): _sentence(rows.to_dict("records"))
        for label, rows in table.groupby("label", sort=False)
    }


def _sentence(rows: Sequence[Mapping[Any, Any]]) -> str:
    """The verdict on one condition; everyday life and geography alone count where they are."""
    by_name = {row["benchmark"]: row for row in rows}
    general_fall = rows[0]["general_fall"]
    more = ", but not that alone" if general_fall > MOST_GENERAL_FALL else ""
    if EVERYDAY in by_name:
        rows = [by_name[name] for name in (EVERYDAY, GEOGRAPHY) if name in by_name]
        start = _kind(*map(_status, rows), more=more)
    else:
        statuses = {row["benchmark"]: _status(row) for row in rows}
        parts = [
            f"{status} on {name}{more if status == _SELECTIVE else ''}"
            for name, status in statuses.items()
        ]
        start = "; ".join([f"{parts[0][0].upper()}{parts[0][1:]}", *parts[1:]])
    falls = [
        *((row["fall"], row["benchmark"]) for row in rows),
        (general_fall, "general questions"),
    ]
    return f"{start}: P(answer) {_moves(falls)}."


def _kind(everyday: str, geography: str = "", *, more: str) -> str:
    """What being selective on either means; ``more`` says that it is not all."""
    if everyday == _SELECTIVE:
        return f"This is culture{more}"
    unclear = [status for status in (everyday, geography) if status.startswith("too few")]
    if unclear:
        return f"There are {unclear[0]}"
    if geography == _SELECTIVE:
        return f"This is country knowledge{more}"
    return f"This is {everyday}"


def _status(row: Mapping[Any, Any]) -> str:
    """Whether a condition is selective on a benchmark, or why that cannot be said."""
    if np.isnan(row["selectivity_cluster_low"]):
        return "too few clusters to say"
    if row["selectivity_cluster_high"] < 0:
        return "no selective fall"
    if row["selectivity_cluster_low"] <= 0:
        return "not selective"
    if row["n_matched"] < ENOUGH_SETS:
        return f"too few sets to say ({row['n_matched']} layer-matched, {ENOUGH_SETS} needed)"
    return _SELECTIVE if row["beats_matched"] else "not selective (random sets do as much)"


def _moves(falls: Sequence[tuple[float, str]]) -> str:
    """ "falls by 70 % on one, by 20 % on another and rises by 5 % on a third"."""
    parts, before = [], ""
    for fall, where in falls:
        verb = "rises " if fall <= -0.005 else "falls "
        parts.append(f"{'' if verb == before else verb}by {abs(100 * fall):.0f} % on {where}")
        before = verb
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
