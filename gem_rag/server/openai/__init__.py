"""OpenAI's protocol, for every program that speaks it."""
