from __future__ import annotations

import pytest
from pydantic import ValidationError

from trainer.recipe.pii import Pii


def test_personal_data_is_reported_and_secrets_redacted_by_default() -> None:
    assert (Pii().action, Pii().secrets, Pii().on_residual, Pii().key_env) == ("report", "redact", "error", None)


@pytest.mark.parametrize(
    "section",
    [
        {"types": {"e-mail": "redact"}},
        {"types": {"email": "delete"}},
        {"phone_regions": ["usa"]},
        {"phone_regions": []},
        {"allow": ["x"]},
        {"key_env": "not a name"},
    ],
)
def test_what_cannot_be_done_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Pii.model_validate(section)
