"""Encoding shortens only the field of task.shorten, pads on the right, and reuses what is cached."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, task_settings
from helpers.rows import read_examples
from helpers.tokenizers import (
    END,
    PAD,
    START,
    byte_level_tokenizer,
    fixture_examples,
    metaspace_tokenizer,
    word_piece_tokenizer,
)

from dp_bench.data import encode as encoding
from dp_bench.data.cache import cached_folder
from dp_bench.data.encode import encode
from dp_bench.data.encoded import EncodedSplit
from dp_bench.data.readers import ExampleFile
from dp_bench.data.source import split_file
from dp_bench.data.template import Rendered, Template
from dp_bench.data.tokens import Tokens, is_inside
from dp_bench.progress import Reporter
from dp_bench.settings import Scoring
from dp_bench.types import Example, UserError

REPOSITORY = Path(__file__).parents[1]

SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_level_tokenizer()


def encode_rte(tokenizer: Any, cache: Path, *, max_length: int = 480, **changes: Any) -> EncodedSplit:
    given = {
        "examples": fixture_examples("rte"),
        "template": Template.of(task_settings("rte")),
        "key_parts": {},
    }
    return encode(**{**given, **changes}, tokenizer=tokenizer, max_length=max_length, cache_dir=cache)


def tokens_of(split: EncodedSplit, row: int) -> list[int]:
    batch = split.collate([row], pad_id=PAD)
    return batch.ids_BT[0].tolist()


# ---------------------------------------------------------------------------------------------- ids


def test_a_text_is_encoded_as_the_tokenizer_does_it(tokenizer: Any, tmp_path: Path) -> None:
    split, template = encode_rte(tokenizer, tmp_path), Template.of(task_settings("rte"))
    examples = fixture_examples("rte")
    for row, example in enumerate(examples):
        assert tokens_of(split, row) == tokenizer(template.render(example.fields).text).input_ids
    assert split.ids == [example.id for example in examples]
    assert split.groups == [example.group for example in examples]
    assert split.sources == [example.source for example in examples]
    assert split.labels.tolist() == [example.label for example in examples]
    assert split.num_truncated == 0


def test_the_body_lies_between_the_special_tokens(tmp_path: Path) -> None:
    split = encode_rte(byte_level_tokenizer("<s> $A </s>"), tmp_path)
    batch = split.collate([0, 1, 2], pad_id=PAD)
    assert batch.body_start_B.tolist() == [1, 1, 1]
    assert batch.ids_BT[:, 0].tolist() == [START] * 3
    ends = batch.ids_BT.gather(1, batch.body_end_B[:, None])
    assert ends.flatten().tolist() == [END] * 3
    assert batch.body_end_B.tolist() == (batch.mask_BT.sum(1) - 1).tolist()


def test_a_tokenizer_without_special_tokens_has_body_throughout(tmp_path: Path) -> None:
    split = encode_rte(byte_level_tokenizer("$A"), tmp_path)
    batch = split.collate([0], pad_id=PAD)
    assert (batch.body_start_B.item(), batch.body_end_B.item()) == (0, batch.ids_BT.shape[1])


def test_a_hidden_label_is_minus_one(tokenizer: Any, tmp_path: Path) -> None:
    hidden = [replace(example, label=None) for example in fixture_examples("rte")]
    assert set(encode_rte(tokenizer, tmp_path, examples=hidden).labels.tolist()) == {-1}


# ---------------------------------------------------------------------------------------------- truncation


@pytest.mark.parametrize("make", [byte_level_tokenizer, metaspace_tokenizer])
@pytest.mark.parametrize("shorten", ["premise", "hypothesis"])
def test_only_the_field_that_gives_way_is_cut_at_its_end(make: Any, shorten: str, tmp_path: Path) -> None:
    tokenizer = make()
    task = task_settings("rte")
    template = Template.parse(task.template, shorten)
    whole = encode_rte(tokenizer, tmp_path, template=template)
    budget = whole.longest - 6
    split = encode_rte(tokenizer, tmp_path, template=template, max_length=budget)
    assert split.longest == budget
    assert split.num_truncated == int((whole.lengths > budget).sum()) > 0
    assert split.share_truncated == split.num_truncated / len(split)
    for row, example in enumerate(fixture_examples("rte")):
        tokens = tokens_of(split, row)
        assert tokens[-1] == END
        assert split.num_cut[row] == max(0, whole.lengths[row] - budget)
        before, kept, after = around(template, example, tokenizer.decode(tokens[:-1]))
        assert (before, after) == around(template, example, template.render(example.fields).text)[::2]
        assert example.fields[shorten].startswith(kept.rstrip())


def around(template: Template, example: Example, text: str) -> tuple[str, str, str]:
    """Divide a text, whole or shortened, into what stands before, in and after the field to shorten."""
    rendered = template.render(example.fields)
    num_after = len(rendered.text) - rendered.shorten_end
    end = len(text) - num_after
    return text[: rendered.shorten_start], text[rendered.shorten_start : end], text[end:].strip()


@pytest.mark.parametrize("make", [byte_level_tokenizer, metaspace_tokenizer])
def test_the_field_may_be_dropped_whole_and_then_it_is_an_error(make: Any, tmp_path: Path) -> None:
    tokenizer, template = make(), Template.of(task_settings("rte"))
    examples = fixture_examples("rte")[:1]
    outside = template.render({**examples[0].fields, "premise": ""}).text
    least = next(n for n in range(8, 200) if encodes(tokenizer, tmp_path, examples, n))
    split = encode_rte(tokenizer, tmp_path, examples=examples, max_length=least)
    assert tokenizer.decode(tokens_of(split, 0)[:-1]).split() == outside.split()
    with pytest.raises(
        UserError,
        match=rf"rte/train/0: .*without \{{premise\}}.* {least} tokens.*max_length={least - 1}\.",
    ):
        encode_rte(tokenizer, tmp_path, examples=examples, max_length=least - 1)


def encodes(tokenizer: Any, cache: Path, examples: list[Example], max_length: int) -> bool:
    try:
        encode_rte(tokenizer, cache, examples=examples, max_length=max_length)
    except UserError:
        return False
    return True


@pytest.mark.parametrize(
    ("start", "end", "inside"),
    [
        (4, 6, True),  # "cd"
        (3, 6, True),  # " cd", whose space is in the template
        (6, 8, True),  # " e"
        (6, 7, True),  # a space within
        (3, 4, False),  # the space before
        (4, 4, False),  # nothing, before
        (2, 5, False),  # ":" too
        (7, 9, False),  # "e." reaches out at the end
        (8, 9, False),
        (9, 9, False),
    ],
)
def test_a_token_that_reaches_out_of_the_field_is_not_the_fields(start: int, end: int, inside: bool) -> None:
    assert is_inside(Rendered("ab: cd e. f", shorten_start=4, shorten_end=8), start, end) is inside


def test_letters_of_several_bytes_are_encoded(tokenizer: Any, tmp_path: Path) -> None:
    accents = {"premise": "Élan — «çà et là», 東京の橋 " * 9, "hypothesis": "Où? 橋"}
    examples = [replace(fixture_examples("rte")[0], fields=accents)]
    whole = encode_rte(tokenizer, tmp_path, examples=examples)
    split = encode_rte(tokenizer, tmp_path, examples=examples, max_length=whole.longest - 40)
    assert split.longest == whole.longest - 40
    assert tokenizer.decode(tokens_of(split, 0)[:-1]).endswith(" sentence2: Où? 橋")


# ---------------------------------------------------------------------------------------------- words


def t5_like_tokenizer() -> Any:
    """The T5 tokenizer, or one with its splitting where that is not at hand."""
    from transformers import AutoTokenizer

    if (SHARED / "t5-tokenizer").is_dir():
        return AutoTokenizer.from_pretrained(SHARED / "t5-tokenizer")
    return metaspace_tokenizer()


ODD_TEXTS = (
    *("", " ", "  two  spaces ", "\tTab\nline\r\nend\x0b", "non\u00a0breaking\u3000wide\u2009thin"),
    *(
        "café cafe\u0301 \u0301 \u0301a a \u0301",
        "½ … ﬁne ™",
        "東京 の 橋",
        "e\u200d \u200de",
        "👩\u200d🔬 👍🏽 🏽",
    ),
    *(
        "</s> a</s> <extra_id_0>b",
        "\u0600 1 \u0600",
        "नमस्ते दुनिया",
        "a\u00ad b",
        "“ quotes ” — dash",
        "\x1c \x85 \u2028 x",
    ),
)


@pytest.mark.parametrize(
    ("make", "by_words"),
    [(t5_like_tokenizer, None), (word_piece_tokenizer, True), (byte_level_tokenizer, False)],
)
def test_ids_are_those_of_the_whole_text(make: Any, by_words: bool | None) -> None:
    tokenizer = make()
    texts = [*ODD_TEXTS, " ".join(ODD_TEXTS)]
    rng = np.random.default_rng(0)
    alphabet = [*"ab .,-'\"", *" \n\u00a0\u0301\u200d\u0600é½東👍🏽ﬁ\u0e33"]
    texts += ["".join(rng.choice(alphabet, 40)) for _ in range(300)]
    texts += [text for name in ("rte", "cb") for e in fixture_examples(name) for text in e.fields.values()]
    tokens = Tokens(tokenizer)
    assert tokens.by_words is by_words or by_words is None
    expected = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert tokens.of(texts) == expected
    assert tokens.of(texts) == expected  # from memory


@pytest.mark.parametrize("make", [t5_like_tokenizer, word_piece_tokenizer])
@pytest.mark.parametrize("form", ["a: {field} b", "{field}", "a:{field}.", "a: {field}. b", "a: “{field}”"])
def test_what_is_in_the_field_that_gives_way_does_not_depend_on_looking_at_words(
    make: Any, form: str
) -> None:
    tokenizer = make()
    by_words, whole = Tokens(tokenizer), Tokens(tokenizer)
    whole.by_words = False
    fields = [*ODD_TEXTS, *(text for e in fixture_examples("cb") for text in e.fields.values())]
    template = Template.parse(form, "field")
    texts = [template.render({"field": field}) for field in fields]
    assert by_words.inside(texts) == whole.inside(texts)


def test_words_are_forgotten_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from dp_bench.data import tokens as module

    tokenizer = word_piece_tokenizer()
    monkeypatch.setattr(module, "MAX_WORDS", 3)
    tokens = Tokens(tokenizer)
    for text in ("the cat sat on the mat", "the dog sat", "the cat", "on the mat"):
        assert tokens.of([text]) == [tokenizer(text, add_special_tokens=False).input_ids]


# ---------------------------------------------------------------------------------------------- choices


def encode_record(tokenizer: Any, cache: Path, **changes: Any) -> EncodedSplit:
    given = {"examples": fixture_examples("record"), "scoring": Scoring.choices, "key_parts": {}, **changes}
    template = Template.of(task_settings("record"))
    return encode(template=template, tokenizer=tokenizer, max_length=480, cache_dir=cache, **given)


@pytest.mark.parametrize("make", [byte_level_tokenizer, word_piece_tokenizer])
def test_choices_are_encoded_whole_with_the_end_token(make: Any, tmp_path: Path) -> None:
    tokenizer, examples = make(), fixture_examples("record")
    split = encode_record(tokenizer, tmp_path)
    assert split.choices == [list(example.choices) for example in examples]
    assert split.golds == [list(example.golds) for example in examples]
    end = [] if tokenizer.eos_token_id is None else [END]
    rows = [5, 0, 3]
    batch = split.collate(rows, pad_id=PAD)
    assert batch.choice_ids_BCA is not None and batch.choice_mask_BCA is not None
    assert batch.choice_ids_BCA.shape == batch.choice_mask_BCA.shape
    assert batch.choice_ids_BCA.shape[1] == max(len(examples[row].choices) for row in rows)
    assert batch.choice_ids_BCA.dtype == torch.int64 and batch.choice_mask_BCA.dtype == torch.bool
    for place, row in enumerate(rows):
        for number in range(batch.choice_ids_BCA.shape[1]):
            ids, mask = batch.choice_ids_BCA[place, number], batch.choice_mask_BCA[place, number]
            expected = []
            if number < len(examples[row].choices):
                choice = examples[row].choices[number]
                expected = [*tokenizer(choice, add_special_tokens=False).input_ids, *end]
            assert ids[mask].tolist() == expected
            assert not mask[len(expected) :].any() and (ids[len(expected) :] == PAD).all()
    assert split.select([5, 0]).choices == [split.choices[5], split.choices[0]]


def test_a_batch_takes_its_choices_along(tokenizer: Any, tmp_path: Path) -> None:
    batch = encode_record(tokenizer, tmp_path).collate([0, 1], pad_id=PAD)
    moved = replace(batch, noise={"position": torch.zeros(2, 5)}).to("cpu")
    assert moved.choice_ids_BCA is not None and moved.choice_mask_BCA is not None
    assert torch.equal(moved.choice_ids_BCA, batch.choice_ids_BCA)
    assert torch.equal(moved.choice_mask_BCA, batch.choice_mask_BCA)
    assert list(moved.noise) == ["position"]


def test_the_label_alone_is_gold_where_there_is_one_and_none_where_it_is_hidden(
    tokenizer: Any, tmp_path: Path
) -> None:
    examples = fixture_examples("record")[:3]
    examples = [replace(examples[0], golds=()), replace(examples[1], label=None, golds=()), examples[2]]
    split = encode_record(tokenizer, tmp_path, examples=examples)
    assert split.golds == [[examples[0].label], [], [0, 1]]
    assert split.labels.tolist() == [examples[0].label, -1, 0]


def test_what_scores_label_words_has_no_choices(tokenizer: Any, tmp_path: Path) -> None:
    split = encode_rte(tokenizer, tmp_path)
    assert (split.choices, split.golds) == ([], [])
    batch = split.collate([0], pad_id=PAD)
    assert batch.choice_ids_BCA is None and batch.choice_mask_BCA is None
    assert "choices" not in split.dataset.column_names


def test_choices_are_part_of_the_key(tokenizer: Any, tmp_path: Path) -> None:
    examples = fixture_examples("record")
    other = replace(examples[0], choices=(*examples[0].choices, "Nobody"))
    keys = [
        encode_record(tokenizer, tmp_path),
        encode_record(tokenizer, tmp_path, scoring=Scoring.words),
        encode_record(tokenizer, tmp_path, examples=[other, *examples[1:]]),
        encode_record(tokenizer, tmp_path, examples=[replace(examples[0], golds=(0, 1)), *examples[1:]]),
    ]
    assert len({split.fingerprint for split in keys}) == len(keys)


# ---------------------------------------------------------------------------------------------- parts


def test_a_split_is_encoded_in_parts_without_a_list_of_its_examples(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode_record(tokenizer, tmp_path / "whole")
    task = task_settings("record")
    file = ExampleFile(task, split_file(FIXTURES / "ReCoRD" / "train.jsonl"))
    monkeypatch.setattr(encoding, "CHUNK", 5)
    parts = encode_record(tokenizer, tmp_path / "parts", examples=file)
    assert parts.fingerprint == whole.fingerprint
    assert parts.dataset.data.num_rows == 12 and len(parts.dataset.data.column("id").chunks) == 3
    assert parts.dataset.to_dict() == whole.dataset.to_dict()
    one, other = (split.collate([11, 4, 7], pad_id=PAD) for split in (parts, whole))
    assert torch.equal(one.ids_BT, other.ids_BT)
    assert torch.equal(one.choice_ids_BCA, other.choice_ids_BCA)  # type: ignore[arg-type]


def test_nothing_is_left_of_an_encoding_that_failed(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="may be shortened"):
        encode_rte(tokenizer, tmp_path, max_length=16)
    assert list((tmp_path / "encoded").iterdir()) == []


# ---------------------------------------------------------------------------------------------- batches


def test_a_batch_is_padded_on_the_right_to_its_longest(tokenizer: Any, tmp_path: Path) -> None:
    split = encode_rte(tokenizer, tmp_path)
    rows = [5, 0, 11]
    batch = split.collate(rows, pad_id=PAD, task_index=3)
    lengths = split.lengths[rows]
    assert batch.ids_BT.shape == (3, lengths.max())
    assert batch.mask_BT.sum(1).tolist() == lengths.tolist()
    assert batch.row_B.tolist() == rows
    assert batch.task_B.tolist() == [3, 3, 3]
    assert batch.label_B.tolist() == split.labels[rows].tolist()
    assert batch.ids_BT.dtype == batch.label_B.dtype == batch.body_end_B.dtype == torch.int64
    for place, row in enumerate(rows):
        assert batch.ids_BT[place, : lengths[place]].tolist() == tokens_of(split, row)
        assert (batch.ids_BT[place, lengths[place] :] == PAD).all()
        assert not batch.mask_BT[place, lengths[place] :].any()


def test_a_batch_may_be_padded_further_but_not_cut(tokenizer: Any, tmp_path: Path) -> None:
    split = encode_rte(tokenizer, tmp_path)
    assert split.collate([0, 1], pad_id=PAD, pad_to=480).ids_BT.shape == (2, 480)
    with pytest.raises(ValueError, match="pad_to=5 is less than the longest"):
        split.collate([0, 1], pad_id=PAD, pad_to=5)


def test_selected_rows_keep_their_numbers(tokenizer: Any, tmp_path: Path) -> None:
    split = encode_rte(tokenizer, tmp_path)
    part = split.select([9, 2, 4]).select(np.array([2, 0]))
    assert len(part) == 2
    assert part.rows.tolist() == [4, 9]
    assert part.ids == ["rte/train/4", "rte/train/9"]
    assert part.lengths.tolist() == split.lengths[[4, 9]].tolist()
    assert part.labels.tolist() == split.labels[[4, 9]].tolist()
    batch = part.collate([1, 0], pad_id=PAD)
    assert batch.row_B.tolist() == [9, 4]
    assert batch.ids_BT[0, : split.lengths[9]].tolist() == tokens_of(split, 9)
    assert part.fingerprint == split.fingerprint


# ---------------------------------------------------------------------------------------------- cache


def test_the_same_input_is_tokenised_once(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_rte(tokenizer, tmp_path)
    monkeypatch.setattr(encoding.Encoder, "batches", lambda *_: pytest.fail("encoded again"))
    second = encode_rte(byte_level_tokenizer(), tmp_path)
    assert first.fingerprint == second.fingerprint
    assert tokens_of(first, 3) == tokens_of(second, 3)
    assert [path.name for path in (tmp_path / "encoded").iterdir()] == [first.fingerprint]
    assert second.dataset.cache_files  # memory-mapped


def test_how_a_tokenizer_was_called_last_does_not_matter() -> None:
    tokenizer = byte_level_tokenizer()
    before = encoding._digest_of_tokenizer(tokenizer)
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=4)
    assert encoding._digest_of_tokenizer(tokenizer) == before


def test_whatever_goes_in_changes_the_key(tokenizer: Any, tmp_path: Path) -> None:
    examples = fixture_examples("rte")
    fields = {**examples[0].fields, "premise": "Another premise."}
    keys = [
        encode_rte(tokenizer, tmp_path),
        encode_rte(tokenizer, tmp_path, template=Template.parse("{premise} {hypothesis}", "premise")),
        encode_rte(tokenizer, tmp_path, template=Template.parse(task_settings("rte").template, "hypothesis")),
        encode_rte(byte_level_tokenizer(vocab_size=450), tmp_path),
        encode_rte(byte_level_tokenizer("<s> $A </s>"), tmp_path),
        encode_rte(tokenizer, tmp_path, max_length=400),
        encode_rte(tokenizer, tmp_path, examples=examples[:8]),
        encode_rte(tokenizer, tmp_path, examples=[replace(examples[0], fields=fields), *examples[1:]]),
        encode_rte(tokenizer, tmp_path, examples=[replace(examples[0], label=None), *examples[1:]]),
        encode_rte(tokenizer, tmp_path, key_parts={"sha256": "another file"}),
    ]
    assert len({split.fingerprint for split in keys}) == len(keys)


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "no manifest", "no data"])
def test_a_damaged_entry_is_made_again_with_a_notice(
    damage: str, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tokens_of(encode_rte(tokenizer, tmp_path), 2)
    folder = next((tmp_path / "encoded").iterdir())
    data = next(folder.glob("*.arrow"))
    content = data.read_bytes()
    if damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "no data":
        data.unlink()
    else:  # a new file, as the old one is still mapped into memory
        data.unlink()
        cut = content[: len(content) // 2]
        data.write_bytes(cut if damage == "truncated" else cut + bytes(len(content) - len(cut)))
    with Reporter() as reporter:
        assert tokens_of(encode_rte(tokenizer, tmp_path), 2) == expected
    assert str(folder) in capsys.readouterr().out and str(folder) in "".join(reporter.warnings)
    with reporter:
        encode_rte(tokenizer, tmp_path)
    assert not reporter.warnings
    assert [path.name for path in (tmp_path / "encoded").iterdir()] == [folder.name]


def test_a_second_writer_leaves_the_first_folder_in_place(tmp_path: Path) -> None:
    def writes(text: str) -> Callable[[Path], object]:
        return lambda folder: (folder / "file").write_text(text)

    def comes_second(folder: Path) -> None:
        writes("second")(folder)
        cached_folder(tmp_path / "entry", writes("first"))

    assert (cached_folder(tmp_path / "entry", comes_second) / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_several_at_once_all_succeed(tokenizer: Any, tmp_path: Path) -> None:
    expected = tokens_of(encode_rte(tokenizer, tmp_path), 0)
    for _ in range(5):
        shutil.rmtree(tmp_path / "encoded")
        with ThreadPoolExecutor(4) as pool:
            splits = list(pool.map(lambda _: encode_rte(tokenizer, tmp_path), range(4)))
        assert [tokens_of(split, 0) for split in splits] == [expected] * 4
        assert len(list((tmp_path / "encoded").iterdir())) == 1


# ---------------------------------------------------------------------------------------------- T5


@pytest.fixture(scope="module")
def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    if not (SHARED / "t5-tokenizer").is_dir():
        pytest.skip("no T5 tokenizer beside the checkout")
    return T5Tokenizer.from_pretrained(SHARED / "t5-tokenizer")


@pytest.mark.parametrize("name", ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"])
def test_the_t5_tokenizer_ends_every_text(name: str, t5_tokenizer: Any, tmp_path: Path) -> None:
    template, examples = Template.of(task_settings(name)), fixture_examples(name)
    split = encode(examples, template, t5_tokenizer, max_length=480, cache_dir=tmp_path, key_parts={})
    batch = split.collate(range(len(split)), pad_id=t5_tokenizer.pad_token_id)
    assert (batch.body_start_B == 0).all()
    assert (batch.ids_BT.gather(1, batch.body_end_B[:, None]) == t5_tokenizer.eos_token_id).all()
    assert (batch.body_end_B + 1 == batch.mask_BT.sum(1)).all()


@pytest.mark.skipif(
    not (SHARED / "superglue").is_dir(), reason="no official SuperGLUE release beside the checkout"
)
def test_the_official_rte_loses_only_premise_words(t5_tokenizer: Any, tmp_path: Path) -> None:
    task = task_settings("rte")
    path = SHARED / "superglue" / "RTE" / "val.jsonl"
    examples, template = read_examples(task, split_file(path), "val", None), Template.of(task)
    split = encode(examples, template, t5_tokenizer, max_length=128, cache_dir=tmp_path, key_parts={})
    assert len(split) == 277
    assert split.longest == 128
    assert 0 < split.share_truncated < 0.3
    for row in np.flatnonzero(split.num_cut)[:20]:
        ids = t5_tokenizer(f"sentence2: {examples[row].fields['hypothesis']}").input_ids
        assert tokens_of(split, int(row))[-len(ids) :] == ids


def test_the_t5_tokenizer_without_its_class_still_ends_every_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    if not (SHARED / "t5-tokenizer").is_dir():
        pytest.skip("no T5 tokenizer beside the checkout")
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "t5-tokenizer")
    assert tokens_of(encode_rte(tokenizer, tmp_path), 0)[-1] == END


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="Slow is not a fast tokenizer"):
        encode_rte(Slow(), tmp_path)
