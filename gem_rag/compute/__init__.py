"""One pass over one batch: what is computed, without threads or files."""
