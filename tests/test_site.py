"""The site's pages: links that work in the repository work there, and nothing is left out."""

import importlib.util
import re
from pathlib import Path

import pytest

import gem_rag

ROOT = Path(__file__).parent.parent


@pytest.fixture
def site():
    """The script that makes it."""
    spec = importlib.util.spec_from_file_location("make_site", ROOT / ".ci" / "make_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pages(site, tmp_path, monkeypatch):
    """What becomes of a repository of a few pages."""
    written = {
        "README.md": "# A\n\nWords.\n\n## B\n\n[cli](docs/cli.md#ask) [log](CHANGELOG.md)\n",
        "CHANGELOG.md": "[x](docs/deep/x.md)",
        "CONTRIBUTING.md": "[web](https://example.org/docs/cli.md) [here](#top)",
        "docs/cli.md": "![p](p.svg) [run](../examples/run.py) [home](../README.md#b)",
        "docs/deep/x.md": "[cli](../cli.md) [home](../../README.md) [gone](nowhere.md)",
        "docs/p.svg": "<svg/>",
        "examples/run.py": "print()",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(site, "ROOT", tmp_path)
    site.copy_pages(tmp_path / "pages")
    return tmp_path / "pages"


@pytest.mark.parametrize(
    ("page", "links"),
    [
        ("index.md", ["cli.md#ask", "changelog.md"]),
        ("changelog.md", ["deep/x.md"]),
        ("contributing.md", ["https://example.org/docs/cli.md", "#top"]),
        ("cli.md", ["p.svg", "examples/run.py", "index.md#b"]),
        ("deep/x.md", ["../cli.md", "../index.md", "nowhere.md"]),  # which the strict build refuses
    ],
)
def test_links_lead_to_where_pages_are_on_the_site(pages, page, links):
    assert re.findall(r"\]\((.+?)\)", (pages / page).read_text()) == links


def test_pictures_and_scripts_that_are_linked_come_along(pages):
    assert (pages / "p.svg").is_file()
    assert (pages / "examples" / "run.py").is_file()


def test_the_home_page_leads_on_after_its_first_paragraph(site, pages):
    site.put_cards(pages / "index.md")
    home = (pages / "index.md").read_text()
    assert home.startswith("# A\n\nWords.\n\n<div")
    assert home.endswith("[log](changelog.md)\n")


def test_every_page_is_in_the_navigation_once(site):
    shown = [page for group in site.navigation([]) for pages in group.values() for page in pages]
    listed = {page if isinstance(page, str) else next(iter(page.values())) for page in shown}
    assert len(shown) == len(listed)
    assert listed == {*site.in_docs("*.md"), *site.MOVED.values()}


def test_what_the_library_shows_has_an_entry_in_the_reference(site):
    names = {
        full.split(".")[-1]
        for page in site.REFERENCE.values()
        for name in page
        for full in site.public(name)
    }
    assert names >= set(gem_rag.__all__)
    assert names >= {"GemTextEmbedder", "GemChatGenerator", "GemRanker", "GemEmbedding", "use_gem"}
