"""The texts of an exported folder: its model card, and a loader in plain transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dp_bench import __version__
from dp_bench.backbones.checkpoint import BUILTIN, PACKAGE
from dp_bench.records import RunRecord
from dp_bench.settings import RunSettings, TaskSettings

LOADER = '''\
"""Answer with the {what} in this folder: answer({{"{field}": …}}). Written by dp-bench {version}."""

{imports}

HERE = Path(__file__).parent
BACKBONE = {backbone}
TASKS = {{{tasks}
}}
{load}


@torch.no_grad()
def logits(fields, task={task}):
    """Return the logit of each label word for the fields of one text."""
    t = TASKS[task]
    start = len(t["template"].partition("{{" + t["shorten"] + "}}")[0].format(**fields))
    stop, text = start + len(fields[t["shorten"]]), t["template"].format(**fields)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, inside = found.input_ids, []
    for i, (a, b) in enumerate(found.offset_mapping):  # tokens of the field that may be shortened
        a += len(text[a:b]) - len(text[a:b].lstrip()) if text[a:b].strip() else 0
        inside += [i] if start <= a < stop and start < b <= stop else []
    dropped = inside[::-1][: max(0, len(ids) - t["longest"])]
    ids = [token for i, token in enumerate(ids) if i not in dropped]
    body, last = ids[: len(ids) - t["tail"]], ids[len(ids) - t["tail"] :] + t["last"]
{forward}
    return {{word: float(scores[t["answer"], id]) for word, id in t["words"].items()}}


def answer(fields, task={task}):
    """Return the label word of one text."""
    found = logits(fields, task)
    return max(found, key=found.get)
'''
OF_VECTORS = """\
    parts = [embed(torch.tensor({first}, dtype=int)), vectors["before"], embed(torch.tensor(body, dtype=int))]
    parts += [vectors["behind"], embed(torch.tensor(last, dtype=int))]
    embeds = torch.cat([part.to(model.dtype) for part in parts])[None]
    scores = model(inputs_embeds=embeds{decoder}).logits[0].float()"""
OF_ADAPTER = """\
    ids = torch.tensor([{first} + body + last])
    scores = model(input_ids=ids, attention_mask=torch.ones_like(ids){decoder}).logits[0].float()"""


def loader(
    tasks: Mapping[str, Mapping[str, Any]],
    first: Sequence[int],
    *,
    auto: str,
    name: str,
    tokenizer: str,
    options: Mapping[str, str],
    dtype: str,
    decoder: Sequence[int] | None,
    is_adapter: bool,
) -> str:
    """Return load.py. `first` are the token ids before each text, `decoder` those that a decoder reads."""
    read = "from peft import PeftModel" if is_adapter else "from safetensors.torch import load_file"
    imports = ["from pathlib import Path", "", "import torch", read]
    imports += [f"from transformers import {auto}, AutoTokenizer"]
    if "find_spec" in _place(name) + _place(tokenizer):
        imports.insert(0, "from importlib.util import find_spec")
    more = "".join(f", {key}={value!r}" for key, value in options.items())
    read_at = f"BACKBONE{more}" if name == tokenizer else _place(tokenizer)
    load = [
        f"tokenizer = AutoTokenizer.from_pretrained({read_at})",
        f"model = {auto}.from_pretrained(BACKBONE{more}, dtype=torch.{dtype})",
        *(
            ["model = PeftModel.from_pretrained(model, str(HERE)).eval()"]
            if is_adapter
            else [
                "embed = model.eval().get_input_embeddings()",
                'vectors = load_file(HERE / "vectors.safetensors")',
            ]
        ),
    ]
    forward = (OF_ADAPTER if is_adapter else OF_VECTORS).format(
        first=list(first),
        decoder="" if decoder is None else f", decoder_input_ids=torch.tensor([{list(decoder)}])",
    )
    one = next(iter(tasks))
    return LOADER.format(
        what="adapter" if is_adapter else "prompt",
        field=tasks[one]["shorten"],
        version=__version__,
        imports="\n".join(imports),
        backbone=_place(name),
        tasks="".join(map(_task, tasks.items())),
        load="\n".join(load),
        task=ascii(one),
        forward=forward,
    )


def _task(item: tuple[str, Mapping[str, Any]]) -> str:
    lines = [f"\n        {key!a}: {value!a}," for key, value in item[1].items()]
    return f"\n    {item[0]!a}: {{{''.join(lines)}\n    }},"


def _place(name: str) -> str:
    """Return the Python expression for the place of a backbone: in a package, a folder, or on the hub."""
    if not name.startswith((BUILTIN, PACKAGE)):
        return ascii(name)
    package, _, folder = name.removeprefix(PACKAGE).partition("/")
    if name.startswith(BUILTIN):
        package, folder = "dp_bench", name.removeprefix(BUILTIN)
    return f"str(Path(find_spec({package!r}).origin).parent / {folder!r})"


def card(
    record: RunRecord,
    tasks: Mapping[str, TaskSettings],
    settings: RunSettings,
    *,
    is_adapter: bool,
    has_loader: bool,
) -> str:
    """Return the model card of an exported run."""
    on_hub = record.checkpoint.get("commit") is not None
    name = str(record.checkpoint["name_or_path"] or "random weights")
    metadata: dict[str, Any] = {
        "library_name": "peft" if is_adapter else "dp-bench",
        "tags": ["dp-bench", "prompt-tuning", record.prompt],
        "datasets": [settings.data.hub] if settings.data.difficulty is None else [],
    }
    if on_hub:
        metadata["base_model"] = name
    metadata = {key: value for key, value in metadata.items() if value}
    lines = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---",
        f"# {record.prompt} on {', '.join(tasks)}, {record.backbone}",
        f"{'An adapter of PEFT' if is_adapter else 'The trained tensors'} of the dp-bench run "
        f"`{record.run_id}`: {record.trainable_parameters:,} trained parameters, "
        f"{record.frozen_parameters:,} frozen ones.",
        "## What it is",
        _table(
            {
                "task": f"{record.task}, {record.data}",
                "backbone": f"`{name}`",
                "revision": record.checkpoint.get("commit") or record.checkpoint.get("revision") or "none",
                "sha256 of the weights": record.checkpoint.get("sha256") or "not known",
                "prompt": f"{record.prompt}, {settings.prompt.num_tokens} vectors",
                "regime": record.regime,
                "protocol": f"{record.protocol}; best of {record.num_updates} updates on "
                f"{record.num_examples['select']} {record.selection} examples",
                "precision": record.precision,
                "seed": record.seed,
                "dp-bench": record.versions.get("dp-bench") or "not known",
            }
        ),
        "## Scores",
        _scores(record),
        "In 0..100, of one run with this seed: another seed gives another score.",
        "## How to load",
        *_how(record, tasks, is_adapter=is_adapter, has_loader=has_loader),
        "## How texts are written",
        *(_writing(task, settings) for task in tasks.values()),
        "## License",
        "dp-bench, which trained this, is under Apache-2.0. The backbone and the data have licenses of their "
        "authors, which are not in this folder: "
        + (f"see [{name}](https://huggingface.co/{name}). " if on_hub else "ask where you have them from. ")
        + "Whoever publishes this folder says under which license its tensors are.",
    ]
    return "\n\n".join(lines) + "\n"


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


def _scores(record: RunRecord) -> str:
    several = {**record.by_task, **record.transfer}
    entries = several or {
        record.task: {
            "score": record.score,
            "metrics": record.metrics,
            "num_examples": record.num_examples,
        }
    }
    lines = ["| task | score | n | metrics |", "|---|---|---|---|"]
    for task, entry in entries.items():
        metrics = ", ".join(f"{name} {value:.2f}" for name, value in entry["metrics"].items())
        note = " (not trained on)" if task in record.transfer else ""
        lines.append(
            f"| {task}{note} | {entry['score']:.2f} | {entry['num_examples']['report']} | {metrics} |"
        )
    return "\n".join(lines)


def _how(
    record: RunRecord, tasks: Mapping[str, TaskSettings], *, is_adapter: bool, has_loader: bool
) -> list[str]:
    task = next(iter(tasks.values()))
    fields = ", ".join(f'"{field}": "…"' for field in task.fields)
    lines = []
    if has_loader:
        needs = "torch, transformers and " + ("peft" if is_adapter else "safetensors")
        call = f"from load import answer\n\nprint(answer({{{fields}}}))  # {' or '.join(task.words)}"
        lines = [f"`load.py` needs {needs}, and the backbone:", f"```python\n{call}\n```"]
    if is_adapter:
        return [
            *lines,
            "`PeftModel.from_pretrained(model, FOLDER)` loads it on the backbone above. Its logits are those "
            "of the run for texts that are written as below.",
        ]
    if not has_loader:
        lines = ["This folder has no loader of plain transformers; dp-bench opens it:"]
    example = f'Example("1", {{{fields}}}, choices={tuple(task.labels)!r}, label=None, group="1", source="1")'
    code = (
        "from dp_bench import open_run",
        "from dp_bench.types import Example",
        "",
        'run = open_run("FOLDER")',
        f"example = {example}",
        f'print(run.predict("{task.training.name}", [example]).choices)',
    )
    version = record.versions.get("dp-bench")
    return [*lines, "```python\n" + "\n".join(code) + "\n```", f"With dp-bench {version}, which wrote it."]


def _writing(task: TaskSettings, settings: RunSettings) -> str:
    cue = settings.cue_of(task)
    scored = f"The words {', '.join(f'`{word}`' for word in task.words)}" if task.words else "Whole choices"
    where = (
        f"are scored in the decoder, behind `{settings.backbone.answer_prefix}`"
        if cue is None
        else f"are scored behind `{cue}`"
        if cue
        else "are scored behind the text"
    )
    if cue is None and not settings.backbone.answer_prefix:
        where = "are scored at the decoder's first step"
    if "{mask}" in (cue or ""):
        where = f"are scored at the mask of `{cue}`"
    return (
        f"{task.title}:\n\n```text\n{task.template}\n```\n\nAt most {task.max_length} tokens, special ones "
        f"included; longer texts lose the end of `{task.shorten}`. {scored} {where}."
    )
