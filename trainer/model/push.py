"""Upload a proven format to the hub; only where the recipe asks for it."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from trainer.errors import HardwareError, StageError
from trainer.recipe.export import Push

TOKEN = "HF_TOKEN"


def push(folder: Path, settings: Push) -> str:
    """Upload a folder as a model repository; return its address.

    Args:
        folder: Of one format.
        settings: The recipe's `export.push`.

    Raises:
        StageError: HF_TOKEN is not set.
        HardwareError: The hub refuses, or cannot be reached.
    """
    token = os.environ.get(TOKEN)
    if not token:
        raise StageError(
            f"export.push: {TOKEN} is not set, and {settings.repo_id} needs it",
            hint=f"export {TOKEN}=... (a token that may write), then run the same command again",
        )
    api = HfApi(token=token)
    try:
        api.create_repo(settings.repo_id, private=settings.private, exist_ok=True)
        api.upload_folder(repo_id=settings.repo_id, folder_path=str(folder), commit_message="Add the exported model")
    except (HfHubHTTPError, OSError) as error:
        raise HardwareError(
            f"export.push: {settings.repo_id}: {str(error).splitlines()[0]}",
            hint="check the name, the token's rights and the network; without export.push nothing is uploaded",
        ) from error
    return f"{api.endpoint}/{settings.repo_id}"
