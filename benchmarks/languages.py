"""Does a text find its translation? Interface messages of Django in other languages, R@1.

Needs the extras ``train`` and ``eval``. English messages of five words or more and their
translations, among which each English one looks for its own, by the checkpoint, its mean-pooled
base and MiniLM.
"""

from __future__ import annotations

import re
import tarfile
from random import Random

from common import arguments, show

from gem_rag.model import GemModel
from gem_rag_train.data.sources import DJANGO
from gem_rag_train.evaluation import retrieval
from gem_rag_train.evaluation.systems import GemEmbedder, MeanPooled, MiniLM

LANGUAGES = ("es", "fr", "de", "ru", "zh_Hans")
ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n?)+)', re.MULTILINE)


def translations(language: str, count: int) -> list[tuple[str, str]]:
    """English messages with their translation, the same ones wherever they are translated."""
    found: dict[str, str] = {}
    with tarfile.open(DJANGO.file()) as archive:
        for member in sorted(archive.getnames()):
            if member.endswith(f"/{language}/LC_MESSAGES/django.po"):
                file = archive.extractfile(member)
                assert file is not None
                entries = ENTRY.findall(file.read().decode("utf-8"))
                found |= {_text(english): _text(other) for english, other in entries}
    long = sorted(e for e, o in found.items() if o and len(e.split()) >= 5 and "\\n" not in e)
    return [(e, found[e]) for e in Random(0).sample(long, min(count, len(long)))]


def _text(quoted: str) -> str:
    return "".join(re.findall(r'"(.*)"', quoted)).replace('\\"', '"')


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("checkpoint", nargs="?", help="as for GemModel.from_pretrained")
    parser.add_argument("--messages", type=int, default=200)
    options = parser.parse_args()
    model = GemModel.from_pretrained(options.checkpoint, dtype="float32")
    systems = (GemEmbedder(model), MeanPooled(model), MiniLM())
    report: dict[str, float] = {}
    for language in LANGUAGES:
        pairs = translations(language, options.messages)
        for system in systems:
            english, other = (
                system.embed([pair[side] for pair in pairs], "document") for side in (0, 1)
            )
            found = retrieval(other, english, range(len(pairs)))[0]
            report[f"{language} ({len(pairs)} messages), {system.name}"] = found.recall1
    show(report, options.json)


if __name__ == "__main__":
    main()
