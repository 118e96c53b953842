"""A prompt strategy is one sentence: which vectors, how many are kept (length), how many go before the text
(position)."""
