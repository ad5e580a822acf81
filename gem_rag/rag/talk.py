"""Small talk: what is said to somebody who asks nothing, without a search and without the model.

A closed list of whole utterances: "Hello" is one, "Hello, when is the shop open?" is a question.
"""

from __future__ import annotations

import re

ABLE = "Ask me about the documents, or have me summarise one of them."
PARTED = "Goodbye!"
THANKED = f"You are welcome. {ABLE}"
GREETED = f"Hello! {ABLE}"
AGREED = f"Good. {ABLE}"
WORDLESS = f"There are no words in this. {ABLE}"

# By what is said back; where one utterance holds several, the first of these counts. Words that
# are searched for by themselves ("fine", "nice", "salve") are left out.
_UTTERANCES = {
    PARTED: """
        bye, bye bye, goodbye, good bye, good night, see you, see you later, see you soon
        see you tomorrow, have a nice day, have a good day
        tschüss, tschüs, auf wiedersehen, bis bald, bis später, gute nacht
        au revoir, à bientôt, bonne nuit, bonne journée
        adiós, hasta luego, hasta pronto, hasta mañana
        arrivederci, a presto, buonanotte, tchau, até logo, até mais, tot ziens, doei
        do widzenia, hej då, güle güle, до свидания, пока
        再见, さようなら, 안녕히 계세요, مع السلامة, अलविदा
    """,
    THANKED: """
        thanks, thank you, thank you very much, thank you so much, thanks a lot, thanks so much
        thanks very much, many thanks, thanks again, thank you again, thx, ty, cheers
        thanks for your help, thank you for your help, thanks for the help, that helped
        that was helpful, thanks in advance, no thanks, no thank you
        danke, danke schön, danke sehr, dankeschön, vielen dank, herzlichen dank, besten dank
        merci, merci beaucoup, merci bien, gracias, muchas gracias, mil gracias
        grazie, grazie mille, obrigado, obrigada, muito obrigado, muito obrigada
        dank je, dank je wel, dank u, dank u wel, bedankt, hartelijk dank
        dziękuję, dzięki, tack så mycket, teşekkürler, teşekkür ederim, спасибо, большое спасибо
        谢谢, 多谢, 非常感谢, ありがとう, ありがとうございます, 감사합니다, 고마워, 고맙습니다
        شكرا, شكرا جزيلا, धन्यवाद
    """,
    GREETED: """
        hello, hello there, hello again, hi, hi there, hi again, hi all, hey, hey there, howdy
        greetings, good morning, good afternoon, good evening, good day, nice to meet you
        how are you, how are you today, how are you doing, how do you do, whats up
        hallo, guten morgen, guten tag, guten abend, moin, servus, grüß gott, grüezi
        wie gehts, wie geht es dir, wie geht es ihnen, bonjour, bonsoir, salut, coucou, ça va
        comment ça va, hola, buenos días, buenas tardes, buenas noches, qué tal
        ciao, buongiorno, buonasera, come stai, olá, oi, bom dia, boa tarde, boa noite, tudo bem
        hoi, goedemorgen, goedemiddag, goedenavond, goedendag, cześć, dzień dobry, dobry wieczór
        hej, hejsan, god morgon, merhaba, selam, günaydın, привет, здравствуйте, здравствуй
        добрый день, доброе утро, добрый вечер, 你好, 您好, 早上好, こんにちは, こんばんは
        おはよう, おはようございます, 안녕, 안녕하세요, مرحبا, السلام عليكم, नमस्ते
    """,
    AGREED: """
        ok, okay, alright, all right, great, perfect, excellent, wonderful, very good, i see
        got it, understood, sounds good, very well, well done, alles klar, verstanden, daccord
        parfait, perfetto, perfecto
    """,
}
_PAUSES = re.compile(r"[.!?,;:…。！？、，¡¿()\n-]+|[^\w\s'\u2019]+(?:\s+|$)")


def _plain(words: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", "", words.casefold()).split())


_SAID_BACK = {
    _plain(words): reply
    for reply, lines in _UTTERANCES.items()
    for words in re.split(r"[,\n]", lines)
    if words.strip()
}


def small_talk(utterance: str) -> str | None:
    """What is said back to an utterance that asks nothing; None to one that may be a question.

    Args:
        utterance: All that was said. Its parts, between pauses, must each be small talk.
    """
    if not re.search(r"[^\W_]", utterance):
        return WORDLESS if utterance.strip() else None
    if whole := _SAID_BACK.get(_plain(utterance)):
        return whole
    parts = [part for piece in _PAUSES.split(utterance) if (part := _plain(piece))]
    replies = {_SAID_BACK.get(part) for part in parts}
    if None in replies:
        return None
    return next(reply for reply in _UTTERANCES if reply in replies)
