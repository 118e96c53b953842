"""The Hugging Face hub: whether it answers, where its cache is, and files from it.

Its client is imported only to fetch files.

The client retries an unreachable hub for half a minute a file. One short request, cached for the process,
lets a machine without network fail at once with a clear message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from threading import Thread
from typing import Any

from dp_bench import faults
from dp_bench.types import RunFailedError, UnreachableError, UserError

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


def model_cache(name: str) -> Path:
    """Return the folder of a model in the hub's cache, which need not exist."""
    return hub_cache_dir() / f"models--{name.replace('/', '--')}"


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


def fetch(
    name: str,
    kind: str,
    revision: str,
    patterns: Sequence[str],
    holds: Callable[[Path], bool],
    *,
    subject: str,
    instead: str,
) -> Path:
    """Return the snapshot of a repository of the hub, a "model" or "dataset".

    It is that of the cache where that `holds` what is needed, or else the files of `patterns` are downloaded,
    with progress bars on a terminal.

    Raises UnreachableError where the hub does not answer, UserError for its refusals and for a broken
    connection. Their message begins with `subject`, what was looked for, and has `instead`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{"disable": None, **options})  # None: unless stderr is a terminal

    download = partial(
        snapshot_download,
        name,
        repo_type=kind,
        revision=revision,
        cache_dir=hub_cache_dir(),
        allow_patterns=list(patterns),
        endpoint=hub_endpoint(),
        tqdm_class=Bar,
    )
    title = "data set" if kind == "dataset" else kind

    def message(why: str) -> str:
        return (
            f"{subject} was looked for in the {title} {name} (revision {revision}): it is not in the hub's "
            f"cache {hub_cache_dir()}, and it could not be fetched: {why}. {instead}"
        )

    incomplete = None
    try:
        cached = Path(download(local_files_only=True))
        if holds(cached):
            return cached
    except LocalEntryNotFoundError as error:  # a listing of all files is cached, but not all of them are
        incomplete = getattr(error, "snapshot_path", None)
    except HFValidationError:
        raise UserError(
            f"{subject} was looked for in {name}, which is neither an existing folder nor the name of a "
            f"{title} on the hub, such as owner/name. {instead}"
        ) from None
    if not hub_reachable():
        if incomplete is not None and holds(Path(incomplete)):
            return Path(incomplete)
        why = "HF_HUB_OFFLINE is set" if hub_offline() else f"{hub_endpoint()} does not answer"
        options = f"{' --repo-type dataset' if kind == 'dataset' else ''} --revision {revision}"
        raise UnreachableError(
            f"{message(why)} Or fill the cache on a connected machine and copy it here: "
            f"hf download {name}{options.removesuffix(' --revision main')}"
        )
    try:
        return Path(download(local_files_only=False))
    except (OSError, HTTPError, RuntimeError) as error:  # of the client, its HTTP library, and hf_xet
        if faults.of_machine(error):  # the disk of the cache
            raise
        page = f"{hub_endpoint()}/{'datasets/' if kind == 'dataset' else ''}{name}"
        raise UserError(message(_why(error, page))) from error


def _why(error: Exception, page: str) -> str:
    """Return what went wrong with a download and what helps, without the last full stop."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the answer for which the client looked into the cache
    answers = {
        errors.GatedRepoError: f"it is gated: accept its terms on {page}, and log in with that account by "
        "`hf auth login`",
        errors.RevisionNotFoundError: f"{page} does not have this revision, or no longer",
        errors.RepositoryNotFoundError: f"there is no {page}, or it is private: `hf auth login` logs you in",
    }
    for kind, text in answers.items():
        if isinstance(error, kind):
            return text
    status = getattr(getattr(error, "response", None), "status_code", 0)
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if status == 429:
        return (
            "the hub answers 429, too many requests: run the command again in some minutes, or log in for a "
            "higher limit by `hf auth login`"
        )
    if status >= 500:
        return f"the hub is out of order and answers {status}: run the command again later"
    if status in (401, 403):
        return f"the hub refuses it ({first}): log in anew by `hf auth login`"
    broken = isinstance(error, errors.HTTPError | ConnectionError | RuntimeError)
    if status == 0 and (broken or "Consistency" in first):
        return f"the download broke off ({first}): run the command again, whole files are kept"
    return f"{type(error).__name__}: {first}"


def refuse_upload(repo: str) -> None:
    """Raise UserError where nothing can be uploaded: a malformed name, no token, or no hub."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(f"--repo {repo} is no name of a repository: type USER/NAME.") from None
    if "/" not in repo:
        raise UserError(f"--repo {repo} names no owner: type USER/NAME.")
    if get_token() is None:
        raise UserError(f"Uploading to {hub_endpoint()} needs a token: `hf auth login` asks for it.")
    if not hub_reachable():
        why = "HF_HUB_OFFLINE is set" if hub_offline() else f"{hub_endpoint()} does not answer"
        raise UnreachableError(
            f"Nothing was uploaded to {repo}: {why}. --to dir --out DIR writes the folder."
        )


def upload(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a folder to a model repository, which is made if need be, and return its page.

    Raises RunFailedError where the hub refuses it or the connection breaks.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api, page = HfApi(endpoint=hub_endpoint()), f"{hub_endpoint()}/{repo}"
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repo, commit_message="Upload by dp-bench export")
    except (OSError, HTTPError, RuntimeError) as error:  # of the client, its HTTP library, and hf_xet
        status = getattr(getattr(error, "response", None), "status_code", 0)
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        helps = {
            401: f"the token is not valid ({first}): `hf auth login` asks for another",
            403: f"the token may not write there ({first}): use one with write access to {repo}, or a "
            "repository of your account",
        }
        why = helps.get(status, f"{first}: run the command again")
        raise RunFailedError(f"Nothing was uploaded to {page}: {why}.") from error
    return page
