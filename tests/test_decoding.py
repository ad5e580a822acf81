"""Text files in the encodings that people have them in."""

import gzip

import pytest

from gem_rag.documents import load_file
from gem_rag.errors import DocumentError

RUSSIAN = "Гарантия на чайник семь лет.\nПривет, мир"
TEXTS = {
    "cp1251": RUSSIAN,
    "koi8_r": RUSSIAN,
    "cp866": RUSSIAN,
    "koi8_u": "Гарантія на чайник сім років, її продовжують.",
    "gb18030": "水壶的保修期为七年。\n你好，世界",
    "big5": "水壺的保修期為七年。",
    "euc_jp": "やかんの保証期間は七年です。",
    "shift_jis": "東京都庁は新宿区にあります。",
    "iso2022_jp": "東京都庁は新宿区にあります。",
    "euc_kr": "주전자의 보증 기간은 칠 년입니다.",
    "cp1250": "Gwarancja na czajnik wynosi siedem lat, źródło.\nA jótállás hét év, őrizze meg.",
    "iso8859_2": "Záruka na konvici je sedm let, pošlete jej do dílny.",
    "cp1252": "Die Garantie für den Kocher: sieben Jahre – „Größe“ 5 µm, 30 €, 100 °C.",
    "cp1253": "Η εγγύηση του βραστήρα είναι επτά χρόνια.",
    "cp1254": "Su ısıtıcısının garantisi yedi yıldır, şimdi değil.",
    "cp1255": "האחריות על הקומקום היא שבע שנים.",
    "cp1256": "ضمان الغلاية سبع سنوات.",
    "cp1257": "Norėdami pataisyti, siųskite įrenginį į dirbtuves, prašome.",
    "cp850": "Die Garantie für den Kocher beträgt sieben Jahre.",
    "utf-8-sig": "café",
    "utf-16": "café",
    "utf-16-le": "Die Garantie beträgt sieben Jahre.",
    "utf-16-be": "水壶的保修期为七年。\n如需维修",
    "utf-32": "café",
    "utf-32-le": "水壶 café",
    "utf-32-be": "café",
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.txt"


@pytest.mark.parametrize(("encoding", "text"), TEXTS.items(), ids=TEXTS)
def test_a_few_words_are_enough_to_tell_the_encoding(file, encoding, text):
    file.write_bytes(text.encode(encoding))
    document = load_file(file)
    assert document.text == text
    assert bool(document.notes) == (not encoding.startswith("utf"))  # a guess is said to be one


def test_utf8_with_a_stray_byte_keeps_its_letters_and_says_what_was_lost(file):
    file.write_bytes("Müller wohnt in Köln".encode() + b"\xff, sagt er.")
    document = load_file(file)
    assert document.text == "Müller wohnt in Köln\ufffd, sagt er."
    assert "1 byte" in document.notes[0]


def test_a_log_with_nuls_is_text(file):
    file.write_bytes(b"started\n" * 20 + b"\0" * 300 + b"stopped\n")
    document = load_file(file)
    assert document.text == "started\n" * 20 + "stopped\n"
    assert "300 NUL bytes" in document.notes[0]


def test_ordinary_files_have_no_notes(file):
    file.write_text("naïve café\n\x1b[31mred\x1b[0m", "utf-8")
    assert load_file(file).notes == ()


def test_html_says_its_encoding_itself(tmp_path):
    page = tmp_path / "a.html"
    page.write_bytes('<meta charset="cp1250"><p>źle</p>'.encode("cp1250"))
    assert load_file(page).text == "źle"


@pytest.mark.parametrize(
    "data", [bytes(range(256)), gzip.compress(b"hello" * 100), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff"]
)
@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.md", "a.py"])
def test_binary_files_are_refused_by_name(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DocumentError, match=rf"{name}.*binary"):
        load_file(tmp_path / name)
