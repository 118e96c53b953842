"""What may be in a file, and what may be typed: strategies of hypothesis."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "x", "\ud83d", "[red]", "nan", 10**400, 1e9, -1, {}, [], {"a": [1]}, [None]]),
)


def damaged(tree: Any, draw: Any) -> Any:
    """Return a tree with one of its values replaced or removed."""
    tree = json.loads(json.dumps(tree))
    node = tree
    for _ in range(draw(st.integers(0, 4))):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        inner = [key for key in keys if isinstance(node[key], dict | list) and node[key]]
        if not inner:
            break
        node = node[draw(st.sampled_from(inner))]
    key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    if draw(st.booleans()):
        node[key] = draw(ODD)
    elif isinstance(node, dict):
        del node[key]
    return tree


JSON_TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "{",
            "42",
            "[" * 3000,
            '{"a":' * 3000,
            "[" + "9" * 5000 + "]",
            '{"status": "\\ud83d"}',
            "{}",
            "\0",
            "NaN",
        ]
    ),
    st.text(max_size=20),
    st.recursive(
        ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ).map(json.dumps),
)
RAW = st.one_of(JSON_TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=60))

YAMLS = st.one_of(
    st.sampled_from(
        [
            b"42",
            b"a: &a [*a]",
            b"\xff\xfe\xfa",
            b"a: b: c",
            b"- 1",
            b"",
            b"[" * 3000,
            b"a: !!python/name:os.system",
        ]
    ),
    st.binary(max_size=30),
    st.dictionaries(st.sampled_from(["num_tokens", "name", "defaults", "zz"]), ODD, max_size=3).map(
        lambda tree: json.dumps(tree).encode()
    ),
)

VALUES = st.one_of(
    st.sampled_from(
        [
            "-1",
            "0",
            "inf",
            "nan",
            "1e23",
            "range(0,1e9)",
            "null",
            "a,b",
            "[",
            "{a: .nan}",
            "[yes]",
            "''",
            "${seed}",
            "${x",
            "\ud83d",
            "choice(1,2)",
            "glob(*)",
            "9" * 5000,
            "interval(0,1)",
            "{a:{b:{c:1}}}",
            "shuffle(1,2)",
        ]
    ),
    st.integers().map(str),
    st.text(max_size=6),
)
