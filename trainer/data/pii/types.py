"""Collect the records of all types, each from the module of its detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard, get_args

from trainer.data.pii.detectors import (
    address,
    coins,
    credentials,
    documents,
    email,
    financial,
    identity,
    network,
    phone,
)
from trainer.data.pii.detectors import secrets as keys
from trainer.data.pii.fold import folded
from trainer.data.pii.record import PiiRecord
from trainer.recipe.pii import PersonalType, PiiType, SecretType

SECRETS: frozenset[str] = frozenset(get_args(SecretType))
RECORDS: Mapping[PiiType, PiiRecord] = {
    **keys.RECORDS,
    **credentials.RECORDS,
    **network.RECORDS,
    **email.RECORDS,
    **phone.RECORDS,
    **address.RECORDS,
    **financial.RECORDS,
    **coins.RECORDS,
    **identity.RECORDS,
    **documents.RECORDS,
}
# mypy checks that each key is a type of the recipe; nothing but this line checks that no type lacks its record.
assert RECORDS.keys() == {*SECRETS, *get_args(PersonalType)}, RECORDS.keys() ^ {*SECRETS, *get_args(PersonalType)}


def record_named(name: str) -> PiiRecord:
    """Return the record of a type of ours, of Presidio or of a name model. Values of the last two stay in the rows."""
    if is_ours(name):
        return RECORDS[name]
    is_person = name.lower().endswith((":per", ":person"))
    return PiiRecord(lint="P008" if is_person else "P099", rank=103)


def is_ours(name: str) -> TypeGuard[PiiType]:
    """Tell whether a type is one of the recipe."""
    return name in RECORDS


def mask(type_: str, value: str) -> str:
    """Return the masked form of a value. No rule finds it again."""
    return record_named(type_).mask(folded(value))
