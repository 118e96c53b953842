"""How notes on the data begin that tables mark: whoever writes them and whoever looks for them agree here."""

DEGENERATE = "degenerate draw"  # few-shot rows among which some label has hardly any
BOTH_SIDES = "on both sides"  # reported rows that are training rows as well
CONTRADICTING = "contradicting labels"  # of equal texts
MARKS = {DEGENERATE: "‡", BOTH_SIDES: "¶", CONTRADICTING: "‖"}
