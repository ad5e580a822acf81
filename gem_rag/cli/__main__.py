"""``python -m gem_rag.cli``."""

from gem_rag.cli import main

main()
