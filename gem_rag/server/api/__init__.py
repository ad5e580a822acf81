"""What the page asks: answers, documents, folders, conversations, and what is going on."""
