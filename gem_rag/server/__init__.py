"""One process that serves chat, search and embeddings over HTTP, and a page to ask from."""
