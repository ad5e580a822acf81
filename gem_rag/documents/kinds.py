"""Kinds of files, by how they are named."""

from __future__ import annotations

from pathlib import PurePath

_CODE = """
.py .pyi .pyx .js .mjs .cjs .jsx .ts .tsx .vue .svelte .java .kt .kts .scala .groovy .gradle
.c .h .cc .cpp .cxx .hh .hpp .cu .m .mm .cs .fs .go .rs .swift .dart .zig .nim .rb .php .pl
.pm .lua .r .jl .hs .ml .ex .exs .erl .clj .el .lisp .sh .bash .zsh .fish .ps1 .bat .sql
.proto .graphql .cmake .mk .tf .css .scss .less .f90 .f .pas .vb .asm .s .sol .v .vhd
"""
_PROSE = """
.txt .text .rst .adoc .asciidoc .org .tex .log .json .jsonl .ndjson .xml .yaml .yml .toml
.ini .cfg .conf .properties .srt .vtt .bib .diff .patch .textile .mediawiki .wiki
"""
_CONVERTED = """
.html .htm .xhtml .pdf .docx .pptx .xlsx .xlsm .xlsb .xls .ods .odt .odp .epub .rtf .ipynb
.eml .msg
"""
_NAMES = """
readme license licence copying changelog changes history news notice authors contributors
contributing maintainers install todo faq makefile dockerfile jenkinsfile vagrantfile
gemfile rakefile procfile
"""

MARKDOWN = {".md", ".markdown", ".mdx", ".mdown", ".rmd", ".qmd"}
ROWS = {".csv", ".tsv"}  # a record a line, below a header
CODE = set(_CODE.split())
PLAIN = {*_PROSE.split(), *ROWS, *CODE}
CONVERTED = set(_CONVERTED.split())
KNOWN = MARKDOWN | PLAIN | CONVERTED
NAMES = set(_NAMES.split())  # of files without a suffix


def kind_of(name: str) -> str:
    """A file's suffix in small letters, which says what kind of file it is."""
    return PurePath(name).suffix.lower()


def is_known(name: str) -> bool:
    """Whether a file of this name is read where nobody named it itself."""
    suffix = kind_of(name)
    return suffix in KNOWN if suffix else PurePath(name).name.lower() in NAMES


def is_code(name: str) -> bool:
    """Whether it is source code."""
    return kind_of(name) in CODE
