"""Whether the Hugging Face hub answers, and where its cache lies; asked before anything heavy is imported.

The hub's own clients retry an unreachable hub for half a minute a file. One short probe, remembered for the
process, lets a machine without network fail at once and in our own words.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from threading import Thread

PROBE_SECONDS = 3.0
DEFAULT_ENDPOINT = "https://huggingface.co"
TRUE_WORDS = ("1", "ON", "YES", "TRUE")


def hub_endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")


def hub_offline() -> bool:
    """Tell whether the user switched the hub off, by the variables that huggingface_hub itself reads."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in TRUE_WORDS


def hub_cache_dir() -> Path:
    """Return the folder of the hub's cache, by huggingface_hub's own rules."""
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if chosen:
        return Path(os.path.expandvars(chosen)).expanduser()
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = os.environ.get("HF_HOME") or str(cache_home / "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


@cache
def hub_reachable() -> bool:
    """Tell whether the hub answers within three seconds; asked once a process."""
    if hub_offline():
        return False
    # A thread, because urllib's timeout does not cover the name lookup, which is what hangs on a cluster
    # node.
    answers: list[bool] = []
    probe = Thread(target=lambda: answers.append(_answers(hub_endpoint())), daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)
    return answers == [True]


def _answers(url: str) -> bool:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, method="HEAD"), timeout=PROBE_SECONDS):
            return True
    except HTTPError as error:
        # The hub is there but has no page for us. 403, 407 and 5xx are what a proxy says when it keeps us in.
        return error.code in (401, 404, 405, 429)
    except (OSError, HTTPException, ValueError):  # no route, no name, no certificate, nonsense, not a URL
        return False
