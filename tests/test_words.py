"""Words beside vectors: what a user types finds the sentence it was copied from."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_rag.index import GemIndex
from gem_rag.index.records import Passage
from gem_rag.index.words import LONGEST, MOST_ASKED, asked, words

MANUALS = {
    "kettle": "Descale the kettle once a month. It is the Aqualine kettle.",
    "connection": "ERR_CONN_42 means that the server hung up; getUserName() was not called.",
    "code": "Fault E1045-B: the heating element is worn. Please call Siobhán O'Brien.",
    "version": "Since release v2.1.3. the dial has a lock, which 3.10 lost again.",
    "languages": "The firmware is written in C++, the app in C# for .NET, the site in node.js.",
    "snake": "Set foo_bar to 1,500 in settings.local.yaml and don't touch __init__.",
    "mail": "Write to service@example.com or look at https://example.com/help/faq?lang=en.",
    "german": "Die Größe der Straßenlaterne beträgt dreißig Zentimeter, naïve Cafés ausgenommen.",
    "japanese": "京都の工場で作られたコーヒーメーカーです。猫は入れないでください。",
    "chinese": "请不要把水壶放在炉子上。保修期为七年。",
    "korean": "주전자는 서울에서 만들어졌습니다. 보증 기간은 칠 년입니다.",
    "thai": "กาต้มน้ำมีการรับประกันเจ็ดปี",
    "russian": "Чайник имеет гарантию семь лет. Ёлка не входит в комплект.",
    "arabic": "الغلاية مصنوعة في المدينة، كِتَابُ التعليمات مرفق. أحمد مسؤول.",
    "hindi": "केतली की वारंटी सात साल की है। यह दिल्ली में बनी है।",
    "telugu": "కెటిల్ హైదరాబాద్‌లో తయారైంది.",
    "hebrew": "הקומקום יוצר בחיפה. שָׁלוֹם לכל המשתמשים.",
}
ASKED = {
    "kettle": ["kettle", "KETTLES", "what is a descaled kettle?", "aqualine", "kettle."],
    "connection": ["ERR_CONN_42", "err_conn_42", "conn", "getUserName", "getusername", "user name"],
    "code": [
        "E1045-B",
        "e1045",
        "E1045B",
        "Siobhan",
        "SIOBHÁN",
        "OBrien",
        "O\u2019Brien's",
        "o'brien",
    ],
    "version": ["v2.1.3", "2.1.3", "V2.1.3?", "3.10"],
    "languages": ["C++", "C#", ".NET", "net", "node.js", "Node"],
    "snake": ["foo_bar", "bar", "1500", "1,500", "settings.local.yaml", "yaml", "__init__"],
    "mail": ["service@example.com", "https://example.com/help/faq", "faq", "example.com/help/faq"],
    "german": ["Größe", "grosse", "GRÖSSE", "Strassenlaterne", "naive", "café", "cafes"],
    "japanese": ["京都", "猫", "コーヒー", "ｺｰﾋｰ", "京都の工場はどこですか？"],
    "chinese": ["水壶", "保修", "炉"],
    "korean": ["주전자", "서울", "주전자가"],
    "thai": ["กาต้มน้ำ", "รับประกัน"],
    "russian": ["чайник", "ЧАЙНИК", "елка", "гарантию"],
    "arabic": ["الغلاية", "كتاب", "احمد", "مرفق"],
    "hindi": ["केतली", "है", "दिल्ली"],
    "telugu": ["కెటిల్"],
    "hebrew": ["בחיפה", "שלום"],
}
EACH = [(name, query) for name, queries in ASKED.items() for query in queries]


@pytest.fixture(scope="module")
def manuals():
    with GemIndex() as index:
        index.add(list(MANUALS.values()), None, ids=list(MANUALS))
        yield index


def found(index, query, **options):
    return [hit.id for hit in index.search(text=query, **options)]


@pytest.mark.parametrize(("name", "query"), EACH)
def test_a_name_a_code_or_a_word_finds_its_sentence(manuals, name, query):
    assert found(manuals, query, k=1) == [name]


def test_versions_and_identifiers_are_told_from_their_like():
    with GemIndex() as index:
        index.add(
            [
                "release 3.1 is out",
                "release 3.10 is out",
                "foo bar",
                "foo_bar",
                "plain C",
                "C++",
                "C#",
            ],
            None,
            ids=["3.1", "3.10", "foo bar", "foo_bar", "C", "C++", "C#"],
        )
        for name in ("3.1", "3.10", "foo_bar", "C++", "C#"):
            assert found(index, name)[0] == name


def test_question_words_do_not_decide():
    with GemIndex() as index:
        index.add(
            ["what is it that you do when they ask who and how", "the warranty lasts seven years"],
            None,
            ids=["chatter", "warranty"],
        )
        assert (
            found(index, "What is the warranty of it, and how long does it last?")[0] == "warranty"
        )
        assert found(index, "Why can't it?") == ["chatter"]  # nothing else is left of it


def test_english_endings_are_stemmed_and_contractions_cut():
    assert words("can't CAN\u2019T don't it's Moody's") == ["can", "can", "do", "it", "moody"]
    with GemIndex() as index:
        index.add(["connecting the devices"], None, ids=["x"])
        assert found(index, "connected device") == ["x"]


HOSTILE = [
    '"',
    '"kettle',
    "*",
    "kettle*",
    "NEAR(",
    "NEAR(kettle descale, 2)",
    "kettle AND",
    "OR",
    "NOT kettle",
    "-kettle",
    "text:kettle",
    "source:x",
    "{text heading}: kettle",
    "^kettle",
    "kettle + descale",
    "(kettle",
    "kettle)",
    "'; DROP TABLE chunks; --",
    "kettle\0descale",
    "\0",
    "🙂",
    "?!... --- ///",
    "the of and",
    "",
    " \n\t",
    "\ud800 kettle",
    "bm25(0)",
    "a" * 100_000,
    "kettle " * 15_000,
    " ".join(f"word{n}" for n in range(12_000)),
    "京" * 30_000,
    "'" * 1000 + '"' * 1000,
    "١٢٣ ²³ ½",
    ":k :terms ? $1 @by",
]


@pytest.mark.parametrize("query", HOSTILE, ids=range(len(HOSTILE)))
def test_a_query_is_plain_text_whatever_it_holds(manuals, query):
    before = manuals.count()
    hits = manuals.search(text=query)
    if "kettle" in query:
        assert hits[0].id == "kettle"
    assert all(0 <= hit.word_score <= 1 for hit in hits)
    assert manuals.count() == before


def test_operators_are_words_like_others():
    with GemIndex() as index:
        index.add(["near the kettle", "kettle alone"], None, ids=["near", "alone"])
        assert found(index, "NEAR kettle")[0] == "near"
        assert set(found(index, "kettle NOT near")) == {"near", "alone"}


def test_a_long_text_is_searched_by_its_first_words():
    many = " ".join(f"word{n}x" for n in range(5000))
    assert len(asked(many)) == MOST_ASKED
    assert max(map(len, words("x" * 500 + " " + "short." * 3))) <= LONGEST


def test_headings_and_file_names_are_found_and_count():
    with GemIndex() as index:
        text = "Press the button for three seconds."
        for source, heading in [
            ("manuals/toaster-mk2.pdf", ""),
            ("manuals/kettle.md", "Care > Descaling"),
            ("manuals/other.md", ""),
        ]:
            index.documents.put(source, text, "1", [Passage(text, 0, len(text), heading)], None)
        body = "descaling is dull, and so is all of this long text about it and other things"
        index.documents.put("manuals/body.md", body, "1", [Passage(body, 0, len(body))], None)
        assert [h.source for h in index.search(text="toaster-mk2.pdf", k=1)] == [
            "manuals/toaster-mk2.pdf"
        ]
        assert [h.source for h in index.search(text="mk2")] == ["manuals/toaster-mk2.pdf"]
        assert [h.source for h in index.search(text="descaling")] == [
            "manuals/kettle.md",
            "manuals/body.md",
        ]
        assert index.search(text="manuals") == []  # folders are mostly the same for all


def test_what_is_read_for_a_chunk_is_searched_and_the_text_shown():
    text = "The war-\nranty lasts."
    with GemIndex() as index:
        passage = Passage(text, 0, len(text), read="Kettle\nThe warranty lasts.")
        index.documents.put("a", text, "1", [passage], None)
        [hit] = index.search(text="warranty")
        assert (hit.text, hit.read) == (text, "Kettle\nThe warranty lasts.")
        index.delete([hit.id])
        assert index.search(text="warranty") == []


TEXT = st.text(
    alphabet=st.one_of(
        st.sampled_from("abcXYZ019 _-./:@&'+#,;!äßéİıñ京都市猫コーヒー서울กาต้है।كِчё\n"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)


@given(TEXT)
@settings(max_examples=300, deadline=None)
def test_a_text_is_found_by_each_of_its_words(text):
    with GemIndex() as index:
        index.add([text, "something else"], None, ids=["it", "other"])
        for word in re.findall(r"\S+", text):
            if asked(word):
                assert "it" in found(index, word), word


@given(TEXT)
@settings(max_examples=200, deadline=None)
def test_no_query_raises_and_scores_are_shares(query):
    with GemIndex() as index:
        index.add([*MANUALS.values(), query], None)
        hits = index.search(text=query, k=30)
        assert all(0 <= hit.word_score <= 1 for hit in hits)
        assert hits == sorted(hits, key=lambda hit: -hit.word_score)
        index.delete(where={})
        assert index.search(text=query) == []
