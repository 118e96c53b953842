"""Speed and memory of dp-bench, each measured by one command:

python scripts/bench NAME [options]         # t5 where no NAME is given; NAME --help lists its options
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

COMMANDS = {  # the module of a command, and what it measures
    "t5": ("speed", "a T5 trained and evaluated, against peft and the authors' step"),
    "decoder": ("speed", "a causal language model of SmolLM2's dimensions, against peft"),
    "encoder": ("speed", "an encoder of MiniLM's or BERT's dimensions with a classifier, against peft"),
    "growth": ("growth", "how time grows with prompt, text, pool, batch, tasks and model"),
    "memory": ("memory", "what training T5s takes, computed without allocating it"),
    "fits": ("memory", "the largest micro-batch that a GPU holds, found by trying"),
    "pack": ("pack", "seeds of one run trained together in one process, against one after the other"),
    "data": ("data", "reading, rendering, tokenising and caching a task's file"),
    "tables": ("tables", "`dp-bench tables` and `status` over 10,000 runs"),
}


def main(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help"):
        listed = "\n".join(f"    {name:9}{what}" for name, (_, what) in COMMANDS.items())
        print(f"{__doc__}\n{listed}")
        return 0
    name, options = (words[0], words[1:]) if words and not words[0].startswith("-") else ("t5", words)
    if name == "work":  # a process of the protocol
        return int(import_module("bench.protocol").work(*options))
    if name not in COMMANDS:
        print(f"There is no benchmark {name!r}. Type one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    return int(import_module(f"bench.{COMMANDS[name][0]}").main(name, options))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)  # so that `bench` is a package
    sys.exit(main(sys.argv[1:]))
