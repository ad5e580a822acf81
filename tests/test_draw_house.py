"""The picture of the house is drawn from the imports, and its check fails when it should."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "draw_house.py"
SETTINGS = """\
[tool.hatch.build.targets.wheel]
packages = ["app", "plugs/plug", "train/school"]
[[tool.importlinter.contracts]]
type = "layers"
containers = ["app"]
layers = ["cli", "(server)", "rag", "text | index", "errors"]
[[tool.importlinter.contracts]]
type = "layers"
containers = ["school"]
layers = ["loop", "data"]
[[tool.importlinter.contracts]]
type = "independence"
modules = ["plug", "school"]
"""
FILES = {
    "app/__init__": '"""The door."""\nimport typing\nif typing.TYPE_CHECKING: import plug\n',
    "app/cli/__init__": '"""The command line: parsing. And more."""\nimport app.rag\n',
    "app/cli/train": '"""Train."""\ndef f():\n    import school.loop\n',
    "app/rag": '"""Finds & `answers`."""\nimport app.index.files, app.text, app.errors\n',
    "app/text": '"""Words | ids."""\nfrom app import errors\n',
    "app/index/__init__": '"""Vectors."""\n',
    "app/index/files": '"""Files."""\nfrom app.errors import E\n',
    "app/errors": '"""Every error."""\nE = Exception\n',
    "plugs/plug/__init__": '"""A framework."""\nimport app.rag, app.errors\n',
    "train/school/__init__": '"""The trainer."""\nimport school.loop\n',
    "train/school/loop": '"""Steps."""\nimport school.data\n',
    "train/school/data": '"""Rows."""\nimport app.text\n',
}


@pytest.fixture
def checkout(tmp_path):
    """A drawn checkout of three small packages."""
    (tmp_path / "pyproject.toml").write_text(SETTINGS)
    (tmp_path / "docs").mkdir()
    for name, text in FILES.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert draw(tmp_path) == (0, "")
    return tmp_path


def draw(root, *options):
    """Exit code and message."""
    command = [sys.executable, str(SCRIPT), "--root", str(root), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


def add(root, name, line):
    path = root / f"{name}.py"
    path.write_text((path.read_text() if path.exists() else '"""New."""\n') + line + "\n")


def test_the_picture_shows_every_room_and_its_sentence(checkout):
    picture = ET.fromstring((checkout / "docs" / "architecture.svg").read_text())
    words = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    rooms = {"cli", "rag", "text", "index", "errors", "plug", "loop", "data", "app", "school"}
    assert rooms <= set(words)
    assert "The command line: parsing." in words
    assert "Finds & answers." in words
    assert "2 files, about 10 lines" in words
    assert "server" not in words


def test_floors_stand_as_the_contract_says(checkout):
    picture = ET.fromstring((checkout / "docs" / "architecture.svg").read_text())
    y = {
        each.text: float(each.get("y")) for each in picture.iter("{http://www.w3.org/2000/svg}text")
    }
    assert y["plug"] < y["cli"] < y["rag"] < y["text"] == y["index"] < y["errors"]
    assert y["loop"] < y["data"]


def test_the_table_lists_every_arrow(checkout):
    page = (checkout / "docs" / "architecture.md").read_text()
    assert "| `cli` | The command line: parsing. | `rag`, `school.loop` |" in page
    assert "| `rag` | Finds & answers. | `text`, `index`, `errors` |" in page
    assert r"| `text` | Words \| ids. | `errors` |" in page
    assert "| `errors` | Every error. | nothing |" in page
    assert "| `plug` | A framework. | `rag`, `errors` |" in page
    assert "| `school.data` | Rows. | `text` |" in page


def test_text_around_the_table_stays(checkout):
    page = checkout / "docs" / "architecture.md"
    page.write_text(f"Before.\n{page.read_text()}After.\n")
    add(checkout, "app/index/files", "import app.errors")
    assert draw(checkout) == (0, "")
    assert page.read_text().startswith("Before.\n")
    assert page.read_text().endswith("After.\n")


def test_drawn_again_it_is_the_same(checkout):
    assert draw(checkout, "--check") == (0, "")


def test_check_fails_when_an_arrow_is_new(checkout):
    before = (checkout / "docs" / "architecture.svg").read_text()
    add(checkout, "app/cli/train", "import app.text")
    code, said = draw(checkout, "--check")
    assert code == 1
    assert "docs/architecture.md: not what the imports say" in said  # implied: not in the picture
    (checkout / "app" / "rag.py").write_text('"""Finds."""\n')
    assert "architecture.svg and docs/architecture.md" in draw(checkout, "--check")[1]
    assert (checkout / "docs" / "architecture.svg").read_text() == before


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("app/errors", "import app.rag", "app.errors -> app.rag runs up"),
        ("app/text", "import app.index.files", "app.text -> app.index runs up"),
        ("app/stray", "", "app.stray is on no floor"),
        ("app/rag", "import plug", "app.rag -> plug: nothing may stand on plug"),
        ("train/school/data", "import app.cli", "app.cli -> school -> app.cli runs up"),
        ("train/school/data", "import school.loop", "school.data -> school.loop runs up"),
    ],
)
def test_an_arrow_that_runs_up_is_not_drawn(checkout, file, line, says):
    add(checkout, file, line)
    for options in ([], ["--check"]):
        code, said = draw(checkout, *options)
        assert code == 1
        assert says in said


def test_a_page_without_a_place_for_the_table(checkout):
    (checkout / "docs" / "architecture.md").write_text("Nothing.\n")
    code, said = draw(checkout)
    assert code == 1
    assert "<!-- rooms:begin -->" in said
