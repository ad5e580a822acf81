"""Framework classes over gem_rag."""
