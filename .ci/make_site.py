"""Make the documentation's site: guides as they are, an API reference from docstrings, llms.txt.

``python .ci/make_site.py`` writes build/site/html and fails on any warning: a link or an anchor
that leads nowhere, a name that is in no module. Pages are copied first, so that links which work in
the repository (``../examples/...``, ``docs/cli.md``) work on the site as well.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import tomli_w

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent / "site"
URL = "http://localhost:8000/"  # where nobody says another
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")

# Pages that stand outside docs/, and what they are on the site.
MOVED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
START = ["index.md", "how-it-works.md", "documents.md", "cli.md"]
FRAMEWORKS = ["integrations.md", "langchain.md", "llama-index.md"]
PROJECT = ["architecture.md", "contributing.md", "changelog.md"]
FIRST_EXPERIMENTS = ["experiments.md", "benchmarks.md"]

# Reference pages: title -> the packages whose `__all__` they show, or single names.
REFERENCE = {
    "The model": [
        "gem_rag.model.GemModel",
        "gem_rag.model.Reading",
        "gem_rag.model.Ranked",
        "gem_rag.engine.options.GenerationOptions",
        "gem_rag.engine.results",
        "gem_rag.engine.streams.Stream",
        "gem_rag.engine.streams.AsyncStream",
        "gem_rag.engine.committee.Committee",
        "gem_rag.store.ReadingStore",
    ],
    "Answers from documents": [
        "gem_rag.rag.GemRAG",
        "gem_rag.rag.Answer",
        "gem_rag.rag.AnswerStream",
        "gem_rag.rag.AsyncAnswerStream",
        "gem_rag.rag.Citation",
        "gem_rag.rag.IngestReport",
        "gem_rag.rag.Removal",
        "gem_rag.documents.Document",
    ],
    "The index": ["gem_rag.index"],
    "LangChain": ["langchain_gem_rag"],
    "LlamaIndex": ["llama_index_gem_rag"],
    "Haystack": [
        "haystack_integrations.components.embedders.gem_rag",
        "haystack_integrations.components.generators.gem_rag",
        "haystack_integrations.components.rankers.gem_rag",
    ],
    "llm": ["llm_gem_rag"],
    "Training": ["gem_rag_train"],
    "Errors": ["gem_rag.errors"],
}


def sources() -> list[Path]:
    """The folders that packages are imported from."""
    placed = sorted((ROOT / "integrations" / "distributions").glob("*/pyproject.toml"))
    return [ROOT, ROOT / "integrations", ROOT / "train", *(file.parent for file in placed)]


def copy_pages(pages: Path) -> None:
    """The repository's pages and what they link to, each link as it is on the site."""
    texts = {**MOVED, **{f"docs/{p}": p for p in in_docs("*")}}
    linked = {target for page in texts if page.endswith(".md") for target in targets(page)}
    places = {name: name for name in linked} | texts  # scripts and the like stay where they are
    for page, place in places.items():
        to = pages / place
        to.parent.mkdir(parents=True, exist_ok=True)
        if page.endswith(".md"):
            to.write_text(with_links(page, places), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / page, to)


def put_cards(home: Path) -> None:
    """Ways on from the home page, after its first paragraph."""
    title, says, rest = home.read_text(encoding="utf-8").split("\n\n", 2)
    cards = (HERE / "cards.md").read_text(encoding="utf-8")
    home.write_text(f"{title}\n\n{says}\n\n{cards}{rest}", encoding="utf-8")


def in_docs(pattern: str) -> list[str]:
    """Files under docs/, as their paths there."""
    found = sorted((ROOT / "docs").rglob(pattern))
    return [file.relative_to(ROOT / "docs").as_posix() for file in found if file.is_file()]


def targets(page: str) -> set[str]:
    """The repository's files that a page links to."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {resolved(page, match[2]) for match in _LINK.finditer(text)}
    return {name for name in named if (ROOT / name).is_file()}


def resolved(page: str, target: str) -> str:
    """A link's target as a path from the repository's root."""
    return os.path.normpath(PurePosixPath(page).parent / target)


def with_links(page: str, places: dict[str, str]) -> str:
    """A page whose links lead to where their targets are on the site; others stay, and fail."""

    def moved(match: re.Match[str]) -> str:
        place = places.get(resolved(page, match[2]))
        if place is None:
            return match[0]
        return match[1] + os.path.relpath(place, PurePosixPath(places[page]).parent)

    return _LINK.sub(moved, (ROOT / page).read_text(encoding="utf-8"))


def write_reference(pages: Path) -> list[dict[str, str]]:
    """A page for each entry of `REFERENCE`; the navigation to them."""
    nav = []
    (pages / "reference").mkdir()
    for title, names in REFERENCE.items():
        place = f"reference/{title.lower().replace(' ', '-')}.md"
        shown = [full for name in names for full in public(name)]
        blocks = "\n\n".join(f"::: {name}" for name in shown)
        (pages / place).write_text(f"# {title}\n\n{blocks}\n", encoding="utf-8")
        nav.append({title: place})
    return nav


def public(name: str) -> list[str]:
    """What a package or module shows: its ``__all__``'s classes and functions, or its classes."""
    path = next((p for s in sources() for p in module_files(s, name) if p.is_file()), None)
    if path is None:
        return [name]  # a class or function
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed: list[str] = ast.literal_eval(node.value)
            return [f"{name}.{one}" for one in listed if not one.isupper()]
    return [f"{name}.{node.name}" for node in tree.body if isinstance(node, ast.ClassDef)]


def module_files(source: Path, name: str) -> list[Path]:
    """Where a module may be under a folder."""
    path = source.joinpath(*name.split("."))
    return [path / "__init__.py", path.with_suffix(".py")]


def navigation(reference: list[dict[str, str]]) -> list[dict[str, list[str | dict[str, str]]]]:
    """All pages in their groups; a page that is named in none is a guide, or an experiment."""
    listed = [page for page in in_docs("*.md") if "/" not in page]
    named = {*START, *FRAMEWORKS, *PROJECT, *FIRST_EXPERIMENTS}
    home: list[str | dict[str, str]] = [{"Home": "index.md"}]
    return [
        {"Start": home + START[1:]},
        {"Guides": [page for page in listed if page not in named]},
        {"Frameworks": [*FRAMEWORKS]},
        {"Reference": [*reference]},
        {"Experiments": FIRST_EXPERIMENTS + in_docs("experiments/*.md")},
        {"Project": [*PROJECT]},
    ]


def settings(url: str, nav: list[dict[str, list[str | dict[str, str]]]]) -> dict[str, object]:
    """What the site's builder is told."""
    held = tomllib.loads((HERE / "zensical.toml").read_text(encoding="utf-8"))
    project = held["project"] | {"site_url": url, "nav": nav}
    project["plugins"]["mkdocstrings"]["handlers"]["python"]["paths"] = [
        str(folder) for folder in sources()
    ]
    flat = {
        title: [p if isinstance(p, str) else next(iter(p.values())) for p in pages]
        for group in nav
        for title, pages in group.items()
    }
    project["plugins"]["llmstxt"] = {
        "full_output": "llms-full.txt",
        "sections": flat,
    }
    return {"project": project}


def main() -> None:
    """Write the pages, then build them strictly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--url", default=URL, help=f"where the site will be ({URL})")
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "site", help="work folder")
    arguments = parser.parse_args()
    pages = arguments.to / "pages"
    shutil.rmtree(arguments.to, ignore_errors=True)
    copy_pages(pages)
    put_cards(pages / "index.md")
    (pages / "assets").mkdir(exist_ok=True)
    shutil.copyfile(HERE / "site.css", pages / "assets" / "site.css")
    nav = navigation(write_reference(pages))
    told = settings(arguments.url, nav)
    (arguments.to / "zensical.toml").write_text(tomli_w.dumps(told), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    built = subprocess.run(command, cwd=arguments.to, check=False)
    if built.returncode:
        sys.exit(built.returncode)
    print(f"{arguments.to / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
