"""The normalisation of ReCoRD's metrics; without numpy, which the readers do not need."""

from __future__ import annotations

import re
import string

PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and extra spaces."""
    bare = text.lower().translate(PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
