"""The tasks a recipe gives shares to: how a pair of each is drawn, and from which sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from random import Random

from gem_rag.errors import GemError
from gem_rag_train.data.pairs import (
    Draw,
    Pair,
    cloze,
    crop,
    drop_words,
    exchange_word,
    masked,
    phrase,
    sentences,
)
from gem_rag_train.data.sources import (
    BBC,
    BOOLQ,
    DJANGO,
    FACTBOOK,
    KJV,
    OPENWEBTEXT,
    WEB,
    WIKIPEDIA,
    WIKIPEDIA_STARTS,
    Passage,
    Source,
    bbc,
    boolq,
    factbook,
    manual,
    verses,
    web,
    wikipedia,
    wikipedia_starts,
)

Prose = Callable[[Random], Passage]

# What `prose_of` can draw from, by the name a recipe gives it.
PROSE: dict[str, tuple[Source, Callable[[], tuple[Passage, ...]]]] = {
    "boolq": (BOOLQ, partial(boolq, "train")),
    "bbc": (BBC, bbc),
    "django": (DJANGO, manual),
    "wikipedia": (WIKIPEDIA, wikipedia),
    "wikipedia_starts": (WIKIPEDIA_STARTS, wikipedia_starts),
    "factbook": (FACTBOOK, factbook),
    "openwebtext": (OPENWEBTEXT, partial(web, "train")),
}


def prose_of(shares: Mapping[str, float]) -> Prose:
    """Draws passages of several sources, each by its share.

    Raises:
        GemError: An unknown source, or no share above zero.
    """
    require_shares("prose", shares, PROSE)
    sources = [PROSE[name][1] for name in shares]

    def draw(rng: Random) -> Passage:
        return rng.choice(rng.choices(sources, list(shares.values()))[0]())

    return draw


def require_shares(setting: str, shares: Mapping[str, float], known: Iterable[str]) -> None:
    """Raise `GemError` unless these are shares of what is known, one above zero at least."""
    values = shares.values()
    if shares.keys() - set(known) or not shares or min(values) < 0 or sum(values) <= 0:
        raise GemError(
            f"{setting} are {dict(shares)}; expected shares above zero of {sorted(known)}"
        )


def _crops(prose: Prose, rng: Random) -> Pair:
    """Two random crops of one paragraph; each is read alone."""
    passage = prose(rng)
    first, second = (crop(passage.body, rng) for _ in range(2))
    return Pair(first, second, "document_document", passage.group)


def _questions(rng: Random) -> Pair:
    """A real search question and the passage that answers it."""
    passage = rng.choice(boolq("train"))
    question = passage.question
    if rng.random() < 0.5:
        question = question[0].upper() + question[1:] + "?"
    return Pair(question, passage.body, "query_document", passage.group)


def _titles(prose: Prose, rng: Random) -> Pair:
    """A title as a short query, and a crop of what stands under it."""
    passage = prose(rng)
    return Pair(passage.title, crop(passage.body, rng, 8), "query_document", passage.group)


def _sentences(prose: Prose, rng: Random) -> Pair:
    """One sentence twice, each time with other words missing, or two neighbours."""
    passage = prose(rng)
    parts = sentences(passage.body)
    at = rng.randrange(len(parts))
    if len(parts) > 1 and rng.random() < 0.3:
        other = parts[at - 1] if at else parts[1]
        return Pair(parts[at], other, "document_document", passage.group)
    shares = rng.choice(((0.0, 0.4), (0.25, 0.25), (0.1, 0.5)))
    first, second = (drop_words(parts[at], rng, share) for share in shares)
    return Pair(first, second, "document_document", passage.group)


def _phrases(prose: Prose, rng: Random) -> Pair:
    """A few words, the same with some missing, and, as a hard negative, with one exchanged."""
    passage, other = (rng.choice((prose(rng), rng.choice(web("train")))) for _ in range(2))
    text = phrase(rng.choice(sentences(passage.body)), rng)
    near = drop_words(text, rng, rng.choice((0.15, 0.3)))
    exchanged = exchange_word(text, other.body, rng)
    negatives = (exchanged,) if exchanged != text else ()
    return Pair(text, near, "document_document", passage.group, negatives)


def _clozes(prose: Prose, rng: Random) -> Pair:
    """A question about a detail, made of one sentence, and the passage the sentence is from."""
    passage = prose(rng)
    question = cloze(rng.choice(sentences(passage.body)), rng)
    return Pair(question, passage.body, "query_document", passage.group)


def _verse_pairs(rng: Random) -> Pair:
    """One verse in two translations."""
    one, two = rng.choice(verses())
    return Pair(one, two, "document_document", one)


def _masked(rng: Random) -> Pair:
    """One sentence, whole and with words missing."""
    passage = rng.choice(boolq("train"))
    return masked(rng.choice(sentences(passage.body)), rng, passage.group)


ON_PROSE: dict[str, tuple[Callable[[Prose, Random], Pair], tuple[Source, ...]]] = {
    "crops": (_crops, ()),
    "clozes": (_clozes, ()),
    "titles": (_titles, ()),
    "sentences": (_sentences, ()),
    "phrases": (_phrases, (OPENWEBTEXT,)),
}
TASKS: dict[str, tuple[Draw, tuple[Source, ...]]] = {  # of sources of their own
    "questions": (_questions, (BOOLQ,)),
    "verses": (_verse_pairs, (KJV, WEB)),
    "masked": (_masked, (BOOLQ,)),
}


def sources_of(shares: Mapping[str, float], prose: Mapping[str, float]) -> list[Source]:
    """The packages that tasks with a share draw from."""
    own = {name: sources for name, (_, sources) in (*ON_PROSE.items(), *TASKS.items())}
    tasks = [task for task, share in shares.items() if share]
    found = [source for task in tasks for source in own.get(task, ())]
    if ON_PROSE.keys() & set(tasks):
        found += [PROSE[name][0] for name, share in prose.items() if share]
    return list(dict.fromkeys(found))
