"""gem-rag."""
