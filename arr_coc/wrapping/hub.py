"""One short question to the hub before anything is loaded from it, instead of half a minute of retries."""

from __future__ import annotations

SECONDS = 5.0
"""For the hub to answer; a reachable one takes a fraction of it."""


def hub_answers(name: str, file: str = "config.json") -> bool:
    """Whether a repository can be asked for on the hub now; if not, its files lie in the local cache.

    Parameters
    ----------
    name
        As a person gives it; no local folder.
    file
        A file that the repository must hold.

    Raises
    ------
    ValueError
        If it is no name, there is no such repository, or the hub can't be reached and the cache doesn't hold it.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(
            f"{name!r} is no folder here, and no name of a hub repository, which reads ORG/NAME; check the path"
        ) from error
    cached = isinstance(try_to_load_from_cache(name, file), str)
    try:
        HfApi().model_info(name, timeout=SECONDS)
        return True
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403, 404) and not cached:
            raise ValueError(
                f"{name!r} is no folder here, and the hub has no such repository, or none you may read ({status}); "
                "check the name, or log in: hf auth login"
            ) from error
    except Exception:  # offline mode, no route, no name server, a proxy's page: whatever a network provokes
        pass
    if not cached:
        raise ValueError(
            f"{name!r} is no local folder, and the model hub can't be reached or HF_HUB_OFFLINE=1 is set; "
            "give a folder, or download it first: hf download ORG/MODEL"
        )
    return False
