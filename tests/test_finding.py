"""A new user's folder of manuals: what a question names is found."""

import pytest

from gem_rag.rag import GemRAG

MANUALS = {
    "zephyr-kettle.md": """# Zephyr K-200 kettle

## Warranty
The warranty of the kettle is seven years from the day of purchase. Keep the bill.

## Descaling
Descale the kettle once a month with 50 ml of vinegar. Rinse it twice.
""",
    "boreas-kettle.md": """# Boreas B-9 kettle

## Warranty
The warranty of the kettle is two years from the day of purchase. Keep the bill.

## Cleaning
Wipe the outside with a damp cloth. Never put the kettle under water.
""",
    "netbox-router.md": """# NetBox router

## Error codes
- ERR_CONN_42: the cable between router and socket is loose. Push it in until it clicks.
- ERR_CONN_43: the provider has closed the line. Call them.
- E1045-B: the fan is blocked. Switch the router off and clean the grille.

## Reset
Hold the small button at the back for ten seconds. All settings are lost.
""",
    "netbox-releases.txt": """NetBox firmware, what is new.

Version v2.1.3 mends a fault that made the router forget its password after a power cut.
Version v2.1.4 lets guests into a network of their own.
Version v3.0 has a new menu in which lights can be switched off at night.
""",
    "api.md": """# Programming the lamp

`set_colour(red, green, blue)` sets the colour of the lamp.
`getBatteryLevel()` returns a number from 0 to 100.
The library is written in C++ and can be used from Rust.
""",
    "kaffeemaschine.md": """# Kaffeemaschine Aurora

## Entkalken
Die Maschine wird alle drei Monate entkalkt. Dafür gibt man Zitronensäure in den Wassertank.

## Größe
Die Maschine ist 32 cm hoch, 24 cm breit und wiegt vier Kilogramm.
""",
    "suihanki.md": """# 炊飯器 さくら

## 保証
保証期間は購入日から五年です。

## お手入れ
内釜は柔らかいスポンジで洗ってください。食器洗い機は使えません。
""",
    "people.txt": """Who to ask.

Margarete Oberholzer repairs kettles on Tuesdays. Tomasz Wójcik looks after routers and networks.
""",
}
QUESTIONS = [
    ("How long is the warranty of the Zephyr kettle?", "zephyr-kettle.md", "seven years"),
    ("And the Boreas B-9, how long is it covered?", "boreas-kettle.md", "two years"),
    ("What does ERR_CONN_42 mean?", "netbox-router.md", "loose"),
    ("error E1045-B", "netbox-router.md", "fan"),
    ("What was mended in v2.1.3?", "netbox-releases.txt", "password"),
    ("What does getBatteryLevel return?", "api.md", "0 to 100"),
    ("Wie oft muss die Kaffeemaschine entkalkt werden?", "kaffeemaschine.md", "drei Monate"),
    ("Wie groß ist die Aurora?", "kaffeemaschine.md", "32 cm"),
    ("炊飯器の保証期間は?", "suihanki.md", "五年"),
    ("Who is Wojcik?", "people.txt", "routers"),
]


@pytest.fixture(scope="module")
def manuals(default_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("manuals")
    for name, text in MANUALS.items():
        (folder / name).write_text(text, encoding="utf-8")
    rag = GemRAG(default_model)
    rag.add(folder)
    return rag


@pytest.mark.model
@pytest.mark.parametrize(("question", "source", "words"), QUESTIONS)
def test_what_a_question_names_is_found_first(manuals, question, source, words):
    found = manuals.retrieve(question, k=1)[0]
    assert found.source.endswith(source)
    assert words in found.text


@pytest.mark.model
def test_words_around_a_question_do_not_hide_it(manuals):
    plain = manuals.answer("How long is the warranty of the Zephyr kettle?", max_new_tokens=24)
    wordy = manuals.answer(
        "Good morning, my train arrives at noon and I was wondering, "
        "how long is the warranty of the Zephyr kettle?",
        max_new_tokens=24,
    )
    assert plain.citations
    assert [c.id for c in wordy.citations] == [c.id for c in plain.citations]


@pytest.mark.model
@pytest.mark.parametrize(
    ("question", "reason"),
    [("Who won the chess championship in 1972?", "nothing_found"), ("Hello!", "small_talk")],
)
def test_what_is_not_in_the_manuals_is_not_answered_from_them(manuals, question, reason):
    answer = manuals.answer(question, max_new_tokens=8)
    assert (answer.finish_reason, answer.citations) == (reason, [])
