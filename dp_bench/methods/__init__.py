"""What a run learns, and how it comes to its predictions: a prompt, all weights, a probe, or nothing.

A prompt is tuned on a frozen backbone; the others are the baselines without which no claim about prompts
stands. All of them select on the same rows, predict the same rows, and leave the same record.
`table.py` says what there is, without torch.
"""
