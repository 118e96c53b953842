"""The text of an example: a template with named fields, parsed once.

If the text of a template such as "hypothesis: {question}. premise: {passage}" is too long, one field is
shortened at its end; rendering therefore reports where that field is. The answer slot is not part of the
text: an encoder-decoder answers in the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from dp_bench.settings import TaskSettings
from dp_bench.types import UserError


@dataclass(frozen=True)
class Rendered:
    """A text; text[shorten_start:shorten_end] is the field that may be shortened."""

    text: str
    shorten_start: int
    shorten_end: int


@dataclass(frozen=True)
class Template:
    """A parsed template, with the name of the field that may be shortened."""

    text: str
    shorten: str
    pieces: tuple[tuple[str, str | None], ...]  # literal text, and the field after it or None

    @classmethod
    def parse(cls, text: str, shorten: str, origin: str = "The template") -> Template:
        """Parse a template; `origin` names its file in messages. Raises UserError if it is malformed."""
        template = cls(text, shorten, tuple(_pieces(text, origin)))
        if template.fields.count(shorten) != 1:
            raise UserError(
                f"{origin}: shorten={shorten} must occur exactly once in the template, since it may be "
                f"shortened; the fields of the template are {', '.join(template.fields) or 'none'}."
            )
        return template

    @classmethod
    def of(cls, task: TaskSettings) -> Template:
        """Parse the template of a task; raise UserError if it names a field that the task lacks."""
        origin = f"task.template of task={task.name}"
        template = cls.parse(task.template, task.shorten, origin)
        unknown = [field for field in template.fields if field not in task.fields]
        if unknown:
            raise UserError(
                f"{origin}: the template names {{{unknown[0]}}}, which is no field of the task; "
                f"its fields are {', '.join(task.fields)}."
            )
        return template

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(field for _, field in self.pieces if field is not None)

    def render(self, fields: Mapping[str, str]) -> Rendered:
        """Fill the template with the fields of an example."""
        parts: list[str] = []
        length = start = end = 0
        for literal, field in self.pieces:
            value = fields[field] if field is not None else ""
            if field == self.shorten:
                start = length + len(literal)
                end = start + len(value)
            parts += (literal, value)
            length += len(literal) + len(value)
        return Rendered("".join(parts), start, end)


def _pieces(text: str, origin: str) -> Sequence[tuple[str, str | None]]:
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise UserError(f'{origin}: the template "{text}" cannot be read: {error}.') from None
    for _, field, form, conversion in parsed:
        if field is not None and (not field.isidentifier() or form or conversion):
            raise UserError(f'{origin}: in the template "{text}" each field must be a plain {{name}}.')
    return [(literal, field) for literal, field, _, _ in parsed]
