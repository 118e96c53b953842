"""Make dp_bench/data/draws.json: FewGLUE's rows as ids, and the digests of the sampled draws, of the official
files.

    python scripts/make_draws.py --superglue DIR --fewglue DIR

Only ids and digests are written: for a sampled draw of k rows a class, the first k ids of `order` train and
the next k select (half of them each where there are fewer). FewGLUE's rows are looked up in the official
training sets by what they say.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dp_bench import config
from dp_bench.data.fewshot import DRAWS, SEEDS, SHOTS, digest, ordered, sampled
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import split_file
from dp_bench.records import write_text
from dp_bench.settings import TaskSettings
from dp_bench.types import Example

TASKS = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--superglue", type=Path, required=True)
    parser.add_argument("--fewglue", type=Path, required=True)
    options = parser.parse_args()
    content: dict[str, dict[str, object]] = {"fewglue": {}, "sampled": {}, "order": {}}
    for name in TASKS:
        task = config.build(config.compose([f"task={name}", "data.dir=."])).settings.task
        official = options.superglue / task.title / "train.jsonl"
        published = {
            part: read(task, options.fewglue / task.title / f"{stem}.jsonl")
            for part, stem in (("train", "train"), ("select", "dev32"))
        }
        if official.is_file():
            examples = read(task, official)
            by_content = {key(example): example for example in examples}
            published = {part: [by_content[key(e)] for e in own] for part, own in published.items()}
            content["sampled"][name] = {
                f"{shots}/{seed}": digest([*drawn.train, *drawn.select])
                for shots in SHOTS
                for seed in SEEDS
                for drawn in [sampled(examples, shots, seed)]
            }
            content["order"][name] = {
                str(seed): {
                    str(label): " ".join(e.id.removeprefix(f"{name}/train/") for e in own[: 2 * max(SHOTS)])
                    for label, own in ordered(examples, seed).items()
                }
                for seed in SEEDS
            }
        else:
            print(f"{name}: {official} is missing, so FewGLUE's own ids are taken and nothing is sampled")
        ids = {part: [e.id for e in own] for part, own in published.items()}
        content["fewglue"][name] = {**ids, "sha256": digest([*published["train"], *published["select"]])}
        print(name, {part: len(own) for part, own in ids.items()})
    write_text(DRAWS, json.dumps(content, indent=1) + "\n")


def read(task: TaskSettings, path: Path) -> list[Example]:
    """Read a file as the training set, so that its rows have the ids that they have there."""
    return list(ExampleFile(task, split_file(path, "train")))


def key(example: Example) -> tuple[object, ...]:
    """Return what an example says, to find it in another file."""
    return (tuple(sorted(example.fields.items())), example.choices, example.label)


if __name__ == "__main__":
    main()
