"""Sites and benchmarks that a test registers are forgotten after it."""

from collections.abc import Iterator
from contextlib import contextmanager

from culnig_tl.benchmarks import catalogue
from culnig_tl.sites import SITES


@contextmanager
def restored() -> Iterator[None]:
    """Inside, anything may be registered; afterwards the package knows its own things only."""
    own_sites = set(SITES)
    try:
        yield
    finally:
        for name in SITES.keys() - own_sites:
            del SITES[name]
        catalogue._benchmarks.cache_clear()
