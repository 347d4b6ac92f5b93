"""One vocabulary of cultures for every benchmark, the embedded model's too, and which are kin.

A benchmark's own spelling becomes the name that the paper uses: ``US``, ``United States`` and
``united_states_of_america`` are ``USA``; ``Great Britain`` is ``UK``. Other places keep their usual
English name (``bosnia_and_herzegovina`` is ``Bosnia and Herzegovina``).

BLEnD asked in the north of Nigeria, and the paper calls that culture ``Nigeria``, as CulturalBench
calls the whole country; so does this package. Compare the two with care. The embedded model's own
rows say ``Northern Nigeria``, and so do its results; either spelling selects either's rows.
``Assam`` and ``West Java`` stay apart from ``India`` and ``Indonesia``, and ``Northern Ireland``,
which the World Values Survey counts by itself, from ``UK``.
"""

BLEND_CULTURES: tuple[str, ...] = (
    "USA",
    "UK",
    "South Korea",
    "North Korea",
    "China",
    "Indonesia",
    "West Java",
    "Iran",
    "Azerbaijan",
    "Algeria",
    "Greece",
    "Spain",
    "Mexico",
    "Ethiopia",
    "Nigeria",
    "Assam",
)
"""The sixteen cultures of BLEnD, in the order of every table and matrix of the embedded model."""

KIN: tuple[tuple[str, str], ...] = (
    ("USA", "UK"),
    ("South Korea", "North Korea"),
    ("Indonesia", "West Java"),
    ("Iran", "Azerbaijan"),
    ("Spain", "Mexico"),
)
"""Pairs of cultures that share a language or a country, and with it more answers than others do."""

_OTHER_SPELLINGS = {
    "USA": ("us", "united states", "united states of america"),
    "UK": ("united kingdom", "great britain"),
    "Nigeria": ("northern nigeria",),
    "South Korea": ("republic of korea",),
    "Iran": ("islamic republic of iran",),
    "Russia": ("russian federation",),
    "Vietnam": ("viet nam",),
    "North Macedonia": ("republic of north macedonia",),
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
_WITH_ARTICLE = ("UK", "USA", "Netherlands", "Philippines")


def culture_name(spelling: str) -> str:
    """The name of a culture in this package.

    Example:
        >>> [culture_name(name) for name in ("united_states_of_america", "Northern_Nigeria")]
        ['USA', 'Nigeria']
        >>> culture_name("papua_new_guinea")
        'Papua New Guinea'
    """
    plain = " ".join(spelling.replace("_", " ").split())
    if name := _NAMES.get(plain.casefold()):
        return name
    return plain.title().replace(" And ", " and ") if plain.islower() else plain


def culture_key(spelling: str) -> str:
    """What all spellings of one culture have in common, to compare them by.

    Example:
        >>> culture_key("Northern Nigeria") == culture_key("nigeria")
        True
    """
    return culture_name(spelling).casefold()


def spellings_of(spelling: str) -> tuple[str, ...]:
    """Every spelling of a culture that this package knows, its own first.

    Example:
        >>> spellings_of("united_kingdom")
        ('UK', 'united kingdom', 'great britain')
        >>> spellings_of("")
        ()
    """
    name = culture_name(spelling)
    return (name, *_OTHER_SPELLINGS.get(name, ())) if name else ()


def kin_of(spelling: str) -> frozenset[str]:
    """The cultures that are kin to a culture; it is none of them itself.

    Example:
        >>> sorted(kin_of("united_kingdom")), sorted(kin_of("Assam"))
        (['USA'], [])
    """
    name = culture_name(spelling)
    return frozenset(other for pair in KIN if name in pair for other in pair) - {name}


def in_a_sentence(name: str) -> str:
    """A culture's name as it stands in a sentence.

    Example:
        >>> in_a_sentence("UK"), in_a_sentence("Iran")
        ('the UK', 'Iran')
    """
    return f"the {name}" if name in _WITH_ARTICLE else name


def is_name(spelling: str) -> bool:
    """Whether a text can be a culture's name: a code of digits, as the survey's, is none.

    Example:
        >>> is_name("Iran"), is_name("364")
        (True, False)
    """
    return any(character.isalpha() for character in spelling)
