"""One vocabulary of culture names over all benchmarks.

A benchmark's own spelling becomes the name that the paper uses: ``US``, ``United States`` and
``united_states_of_america`` are ``USA``; ``Great Britain`` is ``UK``. Other places keep their usual
English name (``bosnia_and_herzegovina`` is ``Bosnia and Herzegovina``).

BLEnD asked in the north of Nigeria, and the paper calls that culture ``Nigeria``, as CulturalBench
calls the whole country; so does this package. Compare the two with care. ``Assam`` and
``West Java`` stay apart from ``India`` and ``Indonesia``, and ``Northern Ireland``, which the World
Values Survey counts by itself, from ``UK``.
"""

_OTHER_SPELLINGS = {
    "USA": ("us", "united states", "united states of america"),
    "UK": ("united kingdom", "great britain"),
    "Nigeria": ("northern nigeria",),
    "Turkey": ("türkiye",),
    "Czech Republic": ("czechia",),
    "Hong Kong": ("hong kong sar",),
    "Macao": ("macao sar",),
    "Taiwan": ("taiwan roc",),
    "Bosnia and Herzegovina": ("bosnia herzegovina",),
}
_NAMES = {
    spelling: name
    for name, spellings in _OTHER_SPELLINGS.items()
    for spelling in (name.casefold(), *spellings)
}


def in_a_sentence(name: str) -> str:
    """A culture's name as it stands in a sentence.

    Example:
        >>> in_a_sentence("UK"), in_a_sentence("Iran")
        ('the UK', 'Iran')
    """
    return f"the {name}" if name in ("UK", "USA", "Netherlands", "Philippines") else name


def culture_name(spelling: str) -> str:
    """The name of a culture in this package.

    Example:
        >>> [culture_name(name) for name in ("united_states_of_america", "Northern_Nigeria")]
        ['USA', 'Nigeria']
        >>> culture_name("papua_new_guinea")
        'Papua New Guinea'
    """
    plain = " ".join(spelling.replace("_", " ").split())
    if known := _NAMES.get(plain.casefold()):
        return known
    return plain.title().replace(" And ", " and ") if plain.islower() else plain


def is_name(spelling: str) -> bool:
    """Whether a text can be a culture's name: a code of digits, as the survey's, is none.

    Example:
        >>> is_name("Iran"), is_name("364")
        (True, False)
    """
    return any(character.isalpha() for character in spelling)
