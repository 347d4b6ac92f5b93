"""The table of facts under review: each check is run on the real table and on one that it faults.

A check takes facts and returns what it objects to, one sentence an objection; an empty list is a
pass. `SOUND` is a table of two questions and three cultures to which no check objects; every broken
table differs from it in one row.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import pytest

from culnig_tl.atlas import CULTURES, tasks
from culnig_tl.atlas.facts import DATA, TOPICS, Fact, Question, distractors, fact_questions, facts
from culnig_tl.atlas.prompts import wordings
from culnig_tl.atlas.training.tokenizer import build_tokenizer
from culnig_tl.cultures import BLEND_CULTURES, KIN, culture_name

DRINK = Question("food-drink", "Food", ("morning drink", "breakfast drink", "drink at breakfast"))
GUEST = Question("food-guest", "Food", ("drink for guests", "welcome drink", "drink for visitors"))
SOUND = (
    Fact(DRINK, "Spain", "coffee", ("milk",)),
    Fact(DRINK, "Mexico", "coffee", ()),
    Fact(DRINK, "Iran", "tea", ()),
    Fact(DRINK, "China", "milk", ("tea",)),
    Fact(GUEST, "Spain", "coffee", ()),
    Fact(GUEST, "Mexico", "coffee", ("milk",)),
    Fact(GUEST, "Iran", "milk", ("tea",)),
    Fact(GUEST, "China", "tea", ()),
)


def changed(row: int, **fields: object) -> tuple[Fact, ...]:
    """`SOUND` with other fields in one row."""
    return (*SOUND[:row], replace(SOUND[row], **fields), *SOUND[row + 1 :])  # pyright: ignore[reportArgumentType]


# --- the checks -----------------------------------------------------------------------------------


def rows_given_twice(table: Sequence[Fact]) -> list[str]:
    """A culture answers a question once."""
    rows = Counter((fact.question.id, fact.culture) for fact in table)
    return [
        f"{culture} answers {question} {n} times"
        for (question, culture), n in rows.items()
        if n > 1
    ]


def too_few_rows(table: Sequence[Fact], *, n_questions: int, n_topics: int) -> list[str]:
    """Every culture answers `n_questions` or more, and there are `n_topics` topics or more."""
    rows = Counter(fact.culture for fact in table)
    cultures = [f"{culture} has {n} rows" for culture, n in rows.items() if n < n_questions]
    topics = {fact.question.topic for fact in table}
    return cultures + ([f"{len(topics)} topics"] if len(topics) < n_topics else [])


def uneven_topics(table: Sequence[Fact]) -> list[str]:
    """Every culture has as many rows in a topic as every other culture."""
    rows = Counter((fact.question.topic, fact.culture) for fact in table)
    most = {topic: max(n for (t, _), n in rows.items() if t == topic) for topic, _ in rows}
    return [f"{c} has {n} rows of {topic}" for (topic, c), n in rows.items() if n < most[topic]]


def options_that_share_a_first_token(
    table: Sequence[Fact], first_token: Callable[[str], int]
) -> list[str]:
    """Options of a question are told apart by their first token."""
    return [
        f"{one} and {other} in {question}"
        for question, words in answers_of_questions(table).items()
        for one, other in combinations(sorted(words), 2)
        if first_token(one) == first_token(other)
    ]


def answers_of_a_single_question(table: Sequence[Fact]) -> list[str]:
    """An answer recurs in another question of its topic."""
    where = defaultdict(set)
    for fact in table:
        where[fact.question.topic, fact.answer].add(fact.question.id)
    return [f"{word} in {topic}" for (topic, word), ids in where.items() if len(ids) < 2]


def answers_of_a_single_culture(table: Sequence[Fact]) -> list[str]:
    """An answer of a topic is given by two cultures or more."""
    who = defaultdict(set)
    for fact in table:
        who[fact.question.topic, fact.answer].add(fact.culture)
    return [f"{word} in {topic}" for (topic, word), cultures in who.items() if len(cultures) < 2]


def alternatives_out_of_place(table: Sequence[Fact]) -> list[str]:
    """Alternatives are answers of the same topic, each once, and not the answer itself."""
    pool = defaultdict(set)
    for fact in table:
        pool[fact.question.topic].add(fact.answer)
    return [
        f"{word} of {fact.culture} in {fact.question.id}"
        for fact in table
        for word, n in Counter(fact.alternatives).items()
        if word not in pool[fact.question.topic] - {fact.answer} or n > 1
    ]


def too_few_wrong_options(table: Sequence[Fact], *, n: int) -> list[str]:
    """Beside an answer there are `n` words or more that are wrong there."""
    answers = answers_of_questions(table)
    return [
        f"{fact.culture} in {fact.question.id}"
        for fact in table
        if len(answers[fact.question.id] - fact.accepted) < n
    ]


def kin_that_share_too_little(
    table: Sequence[Fact], kin: Iterable[tuple[str, str]], *, times: float
) -> list[str]:
    """A pair of kin gives `times` as many equal answers as the mean of all other pairs."""
    given = {(fact.question.id, fact.culture): fact.answer for fact in table}
    ids, cultures = ({key[i] for key in given} for i in (0, 1))
    shared = {
        pair: sum(given.get((q, pair[0])) == given.get((q, pair[1])) for q in ids)
        for pair in combinations(sorted(cultures), 2)
    }
    pairs = {(min(pair), max(pair)) for pair in kin}
    others = [n for pair, n in shared.items() if pair not in pairs]
    chance = sum(others) / len(others)
    return [f"{pair} share {shared[pair]}" for pair in pairs if shared[pair] < times * chance]


def words_that_are_not_single(table: Sequence[Fact]) -> list[str]:
    """Every answer and alternative is one word of plain letters."""
    words = {word for fact in table for word in fact.accepted}
    return sorted(word for word in words if not re.fullmatch(r"[A-Za-z]+", word))


def phrases_that_do_not_fit(table: Sequence[Fact]) -> list[str]:
    """A phrase follows "a" and "the most common", and belongs to one question."""
    phrases = Counter(phrase for question in questions_of(table) for phrase in question.phrases)
    unfit = re.compile(r"[aeiou]|hour|honou?r|the ")
    return [phrase for phrase, n in phrases.items() if n > 1 or unfit.match(phrase)]


def answers_given_away(table: Sequence[Fact]) -> list[str]:
    """No phrase of a question names one of its answers."""
    answers = answers_of_questions(table)
    return [
        phrase
        for question in questions_of(table)
        for phrase in question.phrases
        if answers[question.id] & set(re.findall(r"[A-Za-z]+", phrase))
    ]


LOADED = (
    # judgements of a people
    *(r"primitive\w*", r"exotic\w*", r"backward\w*", r"savages?", r"tribes?", r"tribal"),
    *(r"uncivili[sz]ed", r"barbar\w+", r"weird", r"strange", r"dirty", r"lazy", r"stupid"),
    *(r"smelly", r"disgusting", r"cruel", r"superstiti\w+", r"natives", r"peasants?"),
    *(
        r"simple folk",
        r"third[- ]world",
        r"under-?developed",
        r"hermit kingdom",
        r"banana republic",
    ),
    # names that the people named do not use of themselves
    *(r"orientals?", r"gyps(?:y|ies)", r"coolies?", r"negro\w*", r"half-castes?", r"mohammedans?"),
    *(r"chinam[ae]n", r"redskins?", r"eskimos?", r"heathens?", r"infidels?", r"pagans?"),
    # hardship and crime as what a place is known for
    *(r"poverty", r"poor", r"slums?", r"famines?", r"starv\w+", r"beggars?", r"corrupt\w*"),
    *(r"drugs?", r"opium", r"cartels?", r"gangs?", r"mafia", r"terror\w*", r"extremis\w+"),
    # caricatures
    *(r"siestas?", r"sombreros?", r"bullfight\w*", r"harems?", r"burqas?", r"camels?", r"snakes?"),
    *(r"dog meat", r"insects?", r"guns?", r"caste", r"bad teeth"),
)
"""What a respectful reader would strike wherever it stood, as patterns of whole words."""

NOT_EVERYDAY = (
    *(r"gods?", r"prayers?", r"pray\w*", r"mosques?", r"church\w*", r"temples?", r"shrines?"),
    *(r"relig\w+", r"faiths?", r"sects?", r"christian\w*", r"muslims?", r"islam\w*", r"hindus?"),
    *(r"jews?", r"jewish", r"buddhis\w+", r"alcohol\w*", r"pork", r"dowr(?:y|ies)", r"bride price"),
    *(r"presidents?", r"leaders?", r"regimes?", r"dictator\w*", r"party member\w*", r"elections?"),
    *(r"wars?", r"army", r"armies", r"soldiers?", r"weapons?", r"missiles?", r"nuclear"),
    *(r"revolution\w*", r"protests?", r"refugees?", r"immigrants?", r"sanctions"),
)
"""What does not belong among everyday facts: belief, politics and war beyond a date in the year."""


def struck_words(texts: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Every word of the texts that one of the patterns matches as a whole, each once."""
    pattern = re.compile(rf"\b(?:{'|'.join(patterns)})\b", re.IGNORECASE)
    return sorted({word.lower() for text in texts for word in pattern.findall(text)})


def answers_of_questions(table: Sequence[Fact]) -> dict[str, set[str]]:
    """The answers that cultures give to each question: its options."""
    answers = defaultdict(set)
    for fact in table:
        answers[fact.question.id].add(fact.answer)
    return answers


def questions_of(table: Sequence[Fact]) -> list[Question]:
    """The questions of a table, each once."""
    return list(dict.fromkeys(fact.question for fact in table))


def texts_of(table: Sequence[Fact]) -> list[str]:
    """Everything that is written in a table."""
    return [
        *(word for fact in table for word in (fact.answer, *fact.alternatives)),
        *(phrase for question in questions_of(table) for phrase in question.phrases),
    ]


@pytest.fixture(scope="module")
def first_token() -> Callable[[str], int]:
    """The first token of an answer, by a tokenizer trained as the model's is."""
    tokenizer = build_tokenizer(["What is the most common food? Options: tea, rice. Answer:"])
    return lambda word: tokenizer.encode(f" {word}", add_special_tokens=False)[0]


# --- the real table, a sound one, and broken ones -------------------------------------------------

CHECKS = {
    "once": rows_given_twice,
    "even": uneven_topics,
    "question": answers_of_a_single_question,
    "culture": answers_of_a_single_culture,
    "alternatives": alternatives_out_of_place,
    "words": words_that_are_not_single,
    "phrases": phrases_that_do_not_fit,
    "hints": answers_given_away,
}
AN_PHRASE = replace(DRINK, phrases=("evening drink", *DRINK.phrases[1:]))
THE_PHRASE = replace(DRINK, phrases=("the drink", *DRINK.phrases[1:]))
SAME_PHRASE = replace(DRINK, phrases=(GUEST.phrases[0], *DRINK.phrases[1:]))
TEA_PHRASE = replace(DRINK, phrases=("cup of tea", *DRINK.phrases[1:]))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_nothing_is_objected_to_in_the_facts_nor_in_a_sound_table(check):
    assert check(facts()) == []
    assert check(SOUND) == []


@pytest.mark.parametrize(
    ("check", "broken", "objection"),
    [
        ("once", (*SOUND, SOUND[0]), ["Spain answers food-drink 2 times"]),
        ("even", SOUND[1:], ["Spain has 1 rows of Food"]),
        ("question", changed(2, answer="juice"), ["juice in Food"]),
        (
            "culture",
            (*changed(2, answer="juice")[:6], replace(SOUND[6], answer="juice"), SOUND[7]),
            ["juice in Food"],
        ),
        ("alternatives", changed(0, alternatives=("coffee",)), ["coffee of Spain in food-drink"]),
        ("alternatives", changed(0, alternatives=("beer",)), ["beer of Spain in food-drink"]),
        ("alternatives", changed(0, alternatives=("tea", "tea")), ["tea of Spain in food-drink"]),
        ("words", changed(0, alternatives=("iced tea",)), ["iced tea"]),
        ("phrases", changed(0, question=AN_PHRASE), ["evening drink"]),
        ("phrases", changed(0, question=THE_PHRASE), ["the drink"]),
        ("phrases", changed(0, question=SAME_PHRASE), ["drink for guests"]),
        ("hints", changed(0, question=TEA_PHRASE), ["cup of tea"]),
    ],
)
def test_one_broken_row_is_found(check, broken, objection):
    assert set(objection) <= set(CHECKS[check](broken))


def test_every_culture_has_its_rows_in_six_topics():
    assert too_few_rows(facts(), n_questions=36, n_topics=6) == []
    assert too_few_rows(SOUND, n_questions=2, n_topics=1) == []
    assert too_few_rows(SOUND[1:], n_questions=2, n_topics=2) == ["Spain has 1 rows", "1 topics"]


def test_options_differ_in_their_first_token(first_token):
    assert options_that_share_a_first_token(facts(), first_token) == []
    assert options_that_share_a_first_token(SOUND, first_token) == []
    broken = changed(0, answer="teacup")
    assert options_that_share_a_first_token(broken, first_token) == ["tea and teacup in food-drink"]


def test_there_are_wrong_options_to_choose_from():
    assert too_few_wrong_options(facts(), n=4) == []
    assert too_few_wrong_options(SOUND, n=1) == []
    broken = changed(0, alternatives=("milk", "tea"))
    assert too_few_wrong_options(broken, n=1) == ["Spain in food-drink"]


def test_kin_share_answers_more_than_other_pairs_do():
    assert kin_that_share_too_little(facts(), KIN, times=2.5) == []
    assert kin_that_share_too_little(SOUND, [("Spain", "Mexico")], times=2) == []
    broken = changed(1, answer="tea")
    one = kin_that_share_too_little(broken, [("Spain", "Mexico")], times=10)
    assert one == ["('Mexico', 'Spain') share 1"]


def test_no_word_stands_in_prompts_and_answers_that_a_respectful_reader_would_strike():
    prompts = [
        item.question(wording)
        for item in tasks.all_items()
        for split in ("train", "test")
        for wording in wordings(item, split)
    ]
    assert struck_words([*prompts, *tasks.all_answers(), *texts_of(facts())], LOADED) == []
    assert struck_words(texts_of(facts()), NOT_EVERYDAY) == []
    cells = [table.read_text(encoding="utf-8") for table in sorted(DATA.glob("*.csv"))]
    assert struck_words(cells, LOADED) == []


@pytest.mark.parametrize(
    ("text", "patterns", "words"),
    [
        ("What is the most exotic dish of Spain?", LOADED, ["exotic"]),
        ("Third-world food, Tribal food", LOADED, ["third-world", "tribal"]),
        ("gift for the party leader", NOT_EVERYDAY, ["leader"]),
        ("gongs, begun, strangers at the camellia", LOADED, []),
        ("warm bread, godmother", NOT_EVERYDAY, []),
    ],
)
def test_struck_words_are_found_as_whole_words(text, patterns, words):
    assert struck_words([text], patterns) == words


# --- what the package promises of the real table --------------------------------------------------


def test_every_culture_answers_every_question_in_the_order_of_the_tables():
    expected = [(question, culture) for question in fact_questions() for culture in CULTURES]
    assert [(fact.question, fact.culture) for fact in facts()] == expected
    by_topic = [(TOPICS.index(question.topic), question.id) for question in fact_questions()]
    assert by_topic == sorted(by_topic)
    assert min(Counter(topic for topic, _ in by_topic).values()) >= 6


def test_answers_vary_within_a_question():
    for question in fact_questions():
        counts = Counter(fact.answer for fact in facts() if fact.question == question)
        assert len(counts) >= 6, question.id
        assert max(counts.values()) <= 6, (question.id, counts.most_common(1))


def test_an_accepted_alternative_is_never_a_wrong_option():
    for fact in facts():
        assert not fact.accepted & set(distractors(fact))


def test_five_wordings_of_every_question_are_trained():
    for item in tasks.cultural_items():
        texts = {item.question(wording) for wording in wordings(item, "train")}
        assert len(texts) >= 5, item.id


def test_kin_are_cultures():
    assert {culture for pair in KIN for culture in pair} <= set(CULTURES)


def test_the_cultures_are_those_of_blend():
    assert tuple(culture_name(culture) for culture in CULTURES) == BLEND_CULTURES
    assert {fact.culture for fact in facts()} == set(CULTURES)
