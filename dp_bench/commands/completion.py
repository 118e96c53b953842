"""`dp-bench completion SHELL`: tab completion of commands, flags, groups, their options, keys and runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from dp_bench import records
from dp_bench.config.composer import Composer, keys_of
from dp_bench.config.files import GROUPS, options
from dp_bench.config.overrides import parse
from dp_bench.printing import say
from dp_bench.types import UserError

Command = Callable[[list[str]], int]

# The shell hands over the words before the cursor; the last is the one to be completed, perhaps empty.
SCRIPTS = {
    "bash": """\
# eval "$(dp-bench completion bash)", for instance in ~/.bashrc
_dp_bench() {
    local typed="${COMP_LINE:0:COMP_POINT}"
    local -a words
    read -ra words <<< "$typed"
    [[ $typed == *[[:space:]] ]] && words+=("")
    local last="${words[-1]}" IFS=$'\\n'
    COMPREPLY=($(dp-bench completion --words "${words[@]:1}" 2>/dev/null))
    # readline parts words at = and :, and replaces the last part only
    local part="${last%"${last##*[=:]}"}"
    [[ -n $part ]] && COMPREPLY=("${COMPREPLY[@]#"$part"}")
    [[ ${COMPREPLY[0]} == *[=.,] ]] && compopt -o nospace
}
complete -o default -F _dp_bench dp-bench
""",
    "zsh": """\
# eval "$(dp-bench completion zsh)", after compinit, for instance in ~/.zshrc
_dp_bench() {
    local -a found
    found=("${(@f)$(dp-bench completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ -n $found ]] && compadd -Q -S '' -- $found || _files
}
compdef _dp_bench dp-bench
""",
    "fish": """\
# dp-bench completion fish | source, for instance in ~/.config/fish/config.fish
function __dp_bench
    set -l before (commandline -opc)
    dp-bench completion --words $before[2..-1] (commandline -ct) 2>/dev/null
end
complete -c dp-bench -f -a '(__dp_bench)'
""",
}


def completion(shell: str) -> int:
    """Print the script that a shell evaluates. Raises UserError for another shell."""
    if shell not in SCRIPTS:
        raise UserError(f"There is no completion for '{shell}'. It takes: {', '.join(SCRIPTS)}.")
    say(SCRIPTS[shell], end="")
    return 0


def complete(words: Sequence[str], commands: Mapping[str, Command]) -> int:
    """Print what the last of the words after `dp-bench` may become, one possibility a line."""
    *before, last = words or [""]
    with suppress(UserError, OSError):  # while a person types, nothing is wrong yet
        found = _candidates(before, last, commands)
        say("".join(f"{word}\n" for word in dict.fromkeys(found) if word.startswith(last)), end="")
    return 0


def _candidates(before: Sequence[str], last: str, commands: Mapping[str, Command]) -> Iterator[str]:
    if not before:
        yield from commands
    elif before[0] in commands:
        if last.startswith("-"):
            yield from _flags(before[0], commands)
        elif before[-1] == "--from":
            yield from records.finished(Path("results"))
        elif before[0] in ("train", "sweep"):
            yield from _settings(before[1:], last)
        elif before[-1] in ("--experiment",):
            yield from options("experiment")
        else:
            yield from _arguments(before, commands)


def _settings(before: Sequence[str], last: str) -> Iterator[str]:
    """Yield groups and keys with their `=`, or the options of the group that stands before it."""
    group, equals, values = last.partition("=")
    extra = [before[i + 1] for i, word in enumerate(before[:-1]) if word == "--config-dir"]
    folder = Path(extra[0]) if extra and Path(extra[0]).is_dir() else None
    if equals:
        *kept, _ = values.split(",")
        start = "".join(f"{value}," for value in kept)
        yield from (f"{group}={start}{name}" for name in options(group, folder) if name not in kept)
        return
    yield from (f"{name}=" for name in GROUPS)
    chosen = [word for word in before if word.split("=")[0] in GROUPS and "," not in word]
    cfg = Composer(folder).of_choices([parse(word) for word in chosen])
    yield from (f"{key}=" for key in keys_of(cfg) if not key.startswith("hydra") and "._" not in key)


def _flags(command: str, commands: Mapping[str, Command]) -> Iterator[str]:
    return (found for found in re.findall(r"(?<![\w-])--?[a-z][\w-]*", _help(command, commands)))


def _arguments(before: Sequence[str], commands: Mapping[str, Command]) -> Iterator[str]:
    """Yield the words that a command's help has as choices, or the runs where it takes a run."""
    usage = _help(before[0], commands).split("\n\n")[0]
    yield from re.findall(r"[\w-]+", " ".join(re.findall(r"\w[\w-]*(?:\|[\w-]+)+|\{[\w,-]+\}", usage)))
    if "RUN" in usage:
        folder = [before[i + 1] for i, word in enumerate(before[:-1]) if word == "--results-dir"]
        yield from records.finished(Path(folder[0] if folder else "results"))


def _help(command: str, commands: Mapping[str, Command]) -> str:
    with redirect_stdout(StringIO()) as printed, suppress(SystemExit):
        commands[command](["--help"])
    return printed.getvalue()
