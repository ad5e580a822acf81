"""``python -m gem_rag_train.evaluation``: STS and a sample of SQuAD dev, as a table or JSON."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from gem_rag_train.evaluation.run import EvalSettings, evaluate


def main() -> None:
    """What `gem-rag eval` measures of embedding and ranking, on 300 paragraphs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", help="as for GemModel.from_pretrained")
    parser.add_argument("--stsb", type=Path, help="STS-B dev: sentence1,sentence2,score")
    parser.add_argument("--paragraphs", type=int, default=300, help="SQuAD dev sample")
    parser.add_argument("--minilm", action="store_true", help="taken for granted")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    n = arguments.paragraphs
    settings = EvalSettings(
        only=(*(["sts"] if arguments.stsb else []), "retrieval", "ranking"),
        stsb=arguments.stsb,
        paragraphs=n,
        questions=n,
        ranked=n,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = evaluate(arguments.checkpoint, Path(folder), settings)
    print(json.dumps(report.to_dict(), indent=2) if arguments.json else report.markdown())


if __name__ == "__main__":
    main()
