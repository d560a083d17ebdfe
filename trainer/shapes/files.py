"""Types of lists of files: stage.json, provenance.json and manifest.json hold them."""

from __future__ import annotations

from typing_extensions import TypedDict


class FileDigest(TypedDict):
    """Content of one file."""

    sha256: str
    bytes: int
