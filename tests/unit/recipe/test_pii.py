from __future__ import annotations

import subprocess
import sys

import pytest
from phonenumbers import SUPPORTED_REGIONS
from pydantic import ValidationError

from trainer.recipe.pii import COUNTRY_NAMES, DEFAULT_REGIONS, Pii


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


def test_countries_beyond_the_usual_ones_are_taken() -> None:
    assert Pii(phone_regions=["IS", "NZ", "US"]).phone_regions == ["IS", "NZ", "US"]


def test_every_name_that_stands_for_a_country_leads_to_a_known_one() -> None:
    assert set(COUNTRY_NAMES.values()) <= SUPPORTED_REGIONS
    assert set(DEFAULT_REGIONS) <= SUPPORTED_REGIONS
    assert not set(COUNTRY_NAMES) & SUPPORTED_REGIONS


def test_the_usual_countries_need_no_tables_of_telephone_numbers() -> None:
    code = "import sys; from trainer.recipe.pii import Pii; Pii(); print('phonenumbers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
