"""Upload a proven format to the hub, where the recipe asks for it."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi

from trainer.errors import HardwareError, StageError
from trainer.recipe.export import Push

TOKEN = "HF_TOKEN"


def hub_token(settings: Push) -> str:
    """Return the token of the environment; ask for it before hours of work, not after them.

    Raises:
        StageError: HF_TOKEN is not set.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise StageError(
            f"export.push: {TOKEN} is not set, and {settings.repo_id} needs it",
            hint=f"export {TOKEN}=... (a token that may write), then run the same command again",
        )
    return token


def push(folder: Path, settings: Push) -> str:
    """Upload a folder as a model repository; return its address.

    Raises:
        StageError: HF_TOKEN is not set, or the repository is public and the recipe says private.
        HardwareError: The hub refuses, or cannot be reached.
    """
    token = hub_token(settings)
    try:
        api = HfApi(token=token)
        api.create_repo(settings.repo_id, private=settings.private, exist_ok=True)
        is_public = not api.repo_info(settings.repo_id).private
    except Exception as error:  # of the client, of its HTTP library, of the network: all mean that it did not work
        raise _refused(settings, error, token) from None
    if settings.private and is_public:  # one that exists keeps what it was
        raise StageError(
            f"export.push: {settings.repo_id} exists and is public, the recipe says private",
            hint="make it private on the hub, choose another export.push.repo_id, or set export.push.private: false",
        )
    try:
        api.upload_folder(repo_id=settings.repo_id, folder_path=str(folder), commit_message="Add the exported model")
    except Exception as error:
        raise _refused(settings, error, token) from None
    return f"{api.endpoint}/{settings.repo_id}"


def _refused(settings: Push, error: Exception, token: str) -> HardwareError:
    """Return what is said; the cause is left out, since a request among its details would carry the token."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(token, "...")
    return HardwareError(
        f"export.push: {settings.repo_id}: {reason}",
        hint="check the name, the token's rights and the network; without export.push nothing is uploaded",
    )
