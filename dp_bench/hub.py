"""Whether the Hugging Face hub answers, and where its cache is, without importing the whole of its client.

The client retries an unreachable hub for half a minute a file. One short request, cached for the process,
lets a machine without network fail at once with a clear message.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Thread

TIMEOUT_SECONDS = 3.0


def hub_endpoint() -> str:
    """Return the URL of the hub."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def hub_offline() -> bool:
    """Return whether the user disabled the hub, by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def hub_cache_dir() -> Path:
    """Return the folder of the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@cache
def hub_reachable() -> bool:
    """Return whether the hub answers within three seconds; the answer is cached for the process."""
    if hub_offline():
        return False
    # A thread, because urllib's timeout does not cover the name lookup, which hangs on cluster nodes.
    answers: list[bool] = []
    request = Thread(target=lambda: answers.append(_answers(hub_endpoint())), daemon=True)
    request.start()
    request.join(TIMEOUT_SECONDS)
    return answers == [True]


def _answers(url: str) -> bool:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, method="HEAD"), timeout=TIMEOUT_SECONDS):
            return True
    except HTTPError as error:
        # The hub answers without a page. 403, 407 and 5xx come from a proxy that blocks it.
        return error.code in (401, 404, 405, 429)
    except (OSError, HTTPException, ValueError):  # no route, name or certificate, no HTTP, no URL
        return False
