"""What the page is made of: vendored as published, nothing from elsewhere, small."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path

import pytest

import gem_rag

PAGE = Path(gem_rag.__file__).parent / "server" / "page"
OURS = [
    f
    for f in PAGE.rglob("*")
    if f.suffix in {".js", ".css", ".html", ".svg"} and "vendor" not in f.parts
]
BUDGET = 250_000  # bytes over the wire, all of it


def test_vendored_files_are_as_published():
    hashes = json.loads((PAGE / "vendor" / "hashes.json").read_text())
    found = {
        f.relative_to(PAGE / "vendor").as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in (PAGE / "vendor").rglob("*.js")
    }
    assert found == hashes


def test_every_library_comes_with_its_licence():
    for name in ("lit-html", "marked", "dompurify", "lucide"):
        assert (PAGE / "vendor" / f"LICENSE-{name}").stat().st_size > 500


def test_the_page_fits_its_budget():
    sent = [f for f in PAGE.rglob("*") if f.suffix in {".js", ".css", ".html", ".svg"}]
    assert sum(len(zlib.compress(f.read_bytes())) for f in sent) < BUDGET


def test_every_module_is_fetched_at_once():
    named = set(re.findall(r'"modulepreload" href="([^"]+)"', (PAGE / "index.html").read_text()))
    modules = {f.relative_to(PAGE).as_posix() for f in PAGE.rglob("*.js")}
    assert named == modules - {"main.js", "theme.js"}


@pytest.mark.parametrize("file", OURS, ids=lambda f: f.relative_to(PAGE).as_posix())
def test_nothing_comes_from_elsewhere_and_nothing_is_inline(file):
    text = file.read_text()
    assert re.findall(r"(?:src|href|import|url|from|fetch)\W{1,3}(?:https?:)?//", text) == []
    assert "innerHTML" not in text
    assert "eval(" not in text
    if file.suffix == ".html":
        assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", text) == []


def test_every_icon_that_is_named_is_there():
    there = set(re.findall(r'symbol id="([^"]+)"', (PAGE / "icons.svg").read_text()))
    views = "".join(f.read_text() for f in (PAGE / "views").glob("*.js"))
    named = set(re.findall(r'icon(?:Button)?\(\s*"([a-z0-9-]+)"', views))
    assert named
    assert named <= there
