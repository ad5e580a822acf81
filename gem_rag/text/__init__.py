"""Words to token ids and back: the tokenizer, the chat template, tools and prompts."""
