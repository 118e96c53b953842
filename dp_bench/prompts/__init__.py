"""Prompts: which vectors, how many are used (length), how many before the text (position), which layers."""
