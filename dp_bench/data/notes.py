"""The beginnings of notes on the data, by which tables recognise and mark them."""

DEGENERATE = "degenerate draw"  # few-shot rows with hardly any of some label
BOTH_SIDES = "on both sides"  # reported rows that are also training rows
CONTRADICTING = "contradicting labels"  # of equal texts
MARKS = {DEGENERATE: "‡", BOTH_SIDES: "¶", CONTRADICTING: "‖"}
