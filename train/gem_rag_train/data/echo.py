"""Questions made of a text's own sentences: a part gives way to a question word.

"The kettle was built in 1984 by Anna." becomes "In what year was the kettle built by Anna?" Made by
rules, so that there are any number of them for any text; stiff, and so only a part of a mixture.
"""

from __future__ import annotations

import re
from random import Random
from typing import NamedTuple

from gem_rag_train.data.spans import SMALL_WORDS, Kind, Span, spans, word_set

# Not after an initial or a title: "John F. Kennedy", "Dr. No".
SENTENCES = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b(?:Mr|Dr|St|vs|Jr)\.)(?<!\bMrs\.)\s+(?=[A-Z(])"
)
PARENTHESES = re.compile(r"\s*\([^()]*\)")
SENTENCE_WORDS, QUESTION_WORDS = (6, 40), (5, 24)
WEIGHTS: dict[Kind, int] = {"name": 4, "noun": 3, "date": 2, "year": 2, "number": 2}
PREPOSITIONS = word_set("in on by at from for with to of as during since until after")
BE = "was|were|is|are|can|could|will|would|has|had|may|must|should"
# A subject, then a form of "to be" or the like, then the rest: the verb can be put first.
VERB = re.compile(rf"(?P<subject>[\w'’. -]{{2,60}}?) (?P<verb>{BE}) (?P<rest>.*)")
HAS_VERB = re.compile(
    rf"\b(?:{BE}|\w\w+ed|said|wrote|became|won|began|took|made|gave|went|came|held|led|left|met|saw"
    r"|sold|sent|built|found|grew|kept|lost|rose|ran|spent|stood|told|features?|contains?|includes?"
    r"|plays?|uses?|means?|requires?|provides?|remains?|refers?|consists?|occurs?)\b"
)
ACTS = re.compile(rf"(?:{BE}|\w\w+ed|said|wrote|became|won|began|took|made|gave|held|led|built)\b")
# Who begins with these speaks of what was named before: such a question cannot stand alone.
UNNAMED = word_set(
    "he she it they we you i this that these those his her its their our your my such there here "
    "both another others some many most several"
)
JOINING = word_set("and but or so yet however therefore although though while because if")
LINKS = JOINING | word_set("that which who whom whose where when than as")
ARTICLES = word_set("the a an")
LOWERED = ARTICLES | word_set("in on at during after before one all each every no")
UNNAMED_INSIDE = re.compile(
    r"\b(?:he|she|they|his|her|their|him|them|it|its|this|these|we|our|i)\b", re.IGNORECASE
)
PERSON = re.compile(r"(?:Mr|Mrs|Ms|Sir|Dr|King|Queen) |(?!The )[A-Z][a-z]+ [A-Z][a-z]+$")
MOST_BETWEEN = 6  # words between a verb that is put first and what is asked for


class Echo(NamedTuple):
    """A question made of a sentence."""

    question: str
    answer: str
    sentence: str


def echoes(text: str, rng: Random, most: int) -> list[Echo]:
    """Questions about a text, each about another part of it.

    Args:
        text: Prose.
        rng: Draws what is asked for.
        most: How many at most; fewer come where the text has little to ask for.
    """
    choices = [
        (sentence, span)
        for sentence in map(_without_asides, SENTENCES.split(text))
        if _can_be_asked(sentence)
        for span in spans(sentence)
        if span.kind in WEIGHTS and _stands_free(sentence, span)
    ]
    out: list[Echo] = []
    while choices and len(out) < most:
        weights = [WEIGHTS[span.kind] for _, span in choices]
        (at,) = rng.choices(range(len(choices)), weights)
        made = echo(*choices.pop(at), rng)
        if made is not None:
            out.append(made)
    return out


def echo(sentence: str, span: Span, rng: Random) -> Echo | None:
    """The question about one part of a sentence; None where it would make no good one."""
    answer = sentence[span.start : span.end].strip(" ,;.")
    before, after = _clause(sentence[: span.start].strip(), sentence[span.end :].strip(), rng)
    question = " ".join(_asked(before, after, answer, span.kind, rng).split()).strip(" ,;:-")
    question = re.sub(r" ([,;:])", r"\1", question)
    if answer.lower() in question.lower() or not _is_whole(question):
        return None
    return Echo(f"{question[0].upper()}{question[1:]}?", answer, sentence)


def _without_asides(sentence: str) -> str:
    return PARENTHESES.sub("", sentence).strip()


def _can_be_asked(sentence: str) -> bool:
    """Whether it is a whole statement that speaks of what it names itself."""
    words = sentence.split()
    if not SENTENCE_WORDS[0] <= len(words) <= SENTENCE_WORDS[1] or not sentence.endswith("."):
        return False
    first = words[0].lower().strip("'(,")
    speech = re.search(r'["“”`;()\[\]]', sentence)
    return first not in UNNAMED and first not in JOINING and speech is None


def _stands_free(sentence: str, span: Span) -> bool:
    """Whether it is a part of its own: of no list, no apposition and no longer name."""
    before, after = sentence[: span.start], sentence[span.end :]
    if (before and not before.endswith(" ")) or not re.match(r"[ .,]", after):
        return False
    previous = before.split()[-1] if before.strip() else ""
    following = after.split()[0] if after.strip(" .") else ""
    joined = {previous.lower(), following.lower()} & {"and", "or", "nor"}
    listed = joined or previous.endswith((",", ":")) or (after.startswith(",") and not before)
    if listed or previous.lower() in ARTICLES or previous.endswith(("'s", "s'")):
        return False
    if span.kind == "noun":  # else it goes on: "the small | house", "the profile | of"
        goes_on = following in ("of", "that", "to")
        return after[0] == "." or (following in SMALL_WORDS and not goes_on)
    if span.kind == "name":
        alone = after[0] in ".," or following in SMALL_WORDS or ACTS.fullmatch(following)
        after_name = previous[:1].isupper() and previous.lower() not in PREPOSITIONS
        owned = sentence[span.start : span.end].endswith("'s")
        return bool(alone) and not owned and following not in ("the", "of") and not after_name
    return not previous[-1:].isdigit() and not previous[:1].isdigit()


def _is_whole(question: str) -> bool:
    """Whether it has a verb, a fit length, and speaks of nobody before naming them."""
    words = question.split()
    fits = QUESTION_WORDS[0] <= len(words) <= QUESTION_WORDS[1]
    unnamed = UNNAMED_INSIDE.search(" ".join(words[: len(words) // 2]))
    return fits and unnamed is None and HAS_VERB.search(question) is not None


def _clause(before: str, after: str, rng: Random) -> tuple[str, str]:
    """What of a sentence is asked with: often only the clause that the answer stands in."""
    after = after.rstrip(".!?;, ")
    cut = before.rfind(", ")
    main = before[cut + 2 :]
    if cut >= 0 and len(main.split()) >= 4 and _begins_clause(main) and rng.random() < 0.5:
        before = main
    shorter = after.partition(", ")[0].strip()
    whole = HAS_VERB.search(f"{before} {shorter}") is not None
    return before, shorter if whole and (before or len(shorter.split()) >= 4) else after


def _begins_clause(words: str) -> bool:
    """Whether this can be the beginning of a sentence: a subject and its verb."""
    first = words.split()[0].lower()
    begins = first in ARTICLES or words[0].isupper()
    return begins and first not in UNNAMED and HAS_VERB.search(words) is not None


def _asked(before: str, after: str, answer: str, kind: Kind, rng: Random) -> str:
    """The sentence with a question word instead of the answer, in front where that is plain."""
    previous = before.rsplit(" ", 1)[-1].lower()
    wh, after = _question_word(previous, after, answer, kind, rng)
    if not before:
        return f"{wh} {after}" if ACTS.match(after) else ""
    found = VERB.fullmatch(f"{before} ")
    rest = "" if found is None else found["rest"].strip()
    if found is None or not _can_be_put_first(kind, previous, rest):
        return f"{before} {wh} {after}"
    if not rest:  # "The kettle is a machine ...": "What is the kettle?"
        return f"{wh} {found['verb']} {_lowered(found['subject'])}"
    front = wh
    if previous in PREPOSITIONS:
        rest = rest[: -len(previous)].rstrip()
        timed = kind in ("year", "date") and previous in ("in", "on")
        placed = kind == "name" and previous == "in"
        plain = rng.random() < 0.5
        front = "when" if timed and plain else "where" if placed and plain else f"{previous} {wh}"
    after = re.split(rf" (?:{'|'.join(sorted(LINKS - {'as', 'than'}))}) ", f" {after} ")[0]
    return f"{front} {found['verb']} {_lowered(found['subject'])} {rest} {after}"


def _can_be_put_first(kind: Kind, previous: str, rest: str) -> bool:
    words = rest.lower().split()
    if kind == "noun" and previous in PREPOSITIONS:
        return False
    if kind == "name" and words and previous not in PREPOSITIONS:
        return False
    return len(words) <= MOST_BETWEEN and not LINKS - {"as"} & set(words) and "," not in rest


def _question_word(
    previous: str, after: str, answer: str, kind: Kind, rng: Random
) -> tuple[str, str]:
    """What is asked with, and what is left of the sentence after it ("how many people")."""
    if kind == "year":
        return ("what year" if previous in PREPOSITIONS else "which year"), after
    if kind == "date":
        return ("which day" if re.search(r"\b\d\d?\b", answer) else "what month"), after
    if kind == "number":
        return _how_many(answer, after)
    if kind == "name" and PERSON.match(answer) and rng.random() < 0.7:
        return ("whom" if previous == "by" and rng.random() < 0.5 else "who"), after
    return "what", after


def _how_many(answer: str, after: str) -> tuple[str, str]:
    """What asks for a number, with the noun that is counted."""
    if answer.startswith(("$", "£", "€")):
        return "how much money", after
    if re.search(r"%|percent", answer):
        return "what percentage", after
    if re.search(r"years|days|hours|minutes", answer):
        return "how long", after
    if re.search(r"km|miles|metres|meters|feet", answer):
        return "how far", after
    following, _, rest = after.partition(" ")
    if following.isalpha() and following.islower() and following not in SMALL_WORDS:
        return f"how many {following}", rest
    return "what number", after


def _lowered(subject: str) -> str:
    """A subject as it stands within a sentence."""
    first, space, rest = subject.partition(" ")
    return f"{first.lower()}{space}{rest}" if first.lower() in LOWERED else subject
