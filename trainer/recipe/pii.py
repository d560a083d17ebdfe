"""Define `data.pii`: what is done about personal data and secrets in the rows."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from pydantic import Field, field_validator, model_validator

from trainer.recipe.base import Section

Action = Literal["report", "redact", "pseudonymise", "mask", "drop", "error"]
CHANGING: frozenset[Action] = frozenset(("redact", "pseudonymise", "mask"))

PersonalType = Literal[
    "email",
    "phone",
    "address",
    "card",
    "iban",
    "crypto",
    "ip",
    "mac",
    "us_ssn",
    "us_itin",
    "us_routing",
    "uk_nino",
    "uk_nhs",
    "uk_bank_account",
    "ie_pps",
    "de_tax_id",
    "fr_nir",
    "es_dni",
    "it_codice_fiscale",
    "nl_bsn",
    "be_national",
    "ch_ahv",
    "se_personnummer",
    "fi_hetu",
    "no_fodselsnummer",
    "pl_pesel",
    "dk_cpr",
    "pt_nif",
    "ro_cnp",
    "bg_egn",
    "cz_rc",
    "gr_amka",
    "hr_oib",
    "ru_inn",
    "tr_tckimlik",
    "il_id",
    "za_id",
    "br_cpf",
    "br_cnpj",
    "ar_cuit",
    "cl_rut",
    "co_nit",
    "mx_curp",
    "in_aadhaar",
    "in_pan",
    "pk_cnic",
    "cn_resident_id",
    "hk_id",
    "tw_id",
    "jp_my_number",
    "kr_rrn",
    "sg_nric",
    "my_nric",
    "th_pin",
    "au_tfn",
    "ca_sin",
    "bic",
    "vin",
    "date_of_birth",
    "record_number",
    "driver_license",
    "passport",
]
SecretType = Literal["private_key", "api_key", "jwt", "url_credentials", "credential"]
PiiType = PersonalType | SecretType

DEFAULT_REGIONS = (
    *("US", "GB", "DE", "FR", "ES", "IT", "NL", "IN", "BR", "AU", "JP", "CA", "CN", "KR", "TW", "MX", "AR", "PL", "SE"),
    *("DK", "NO", "FI", "AT", "CH", "BE", "PT", "CZ", "HU", "RO", "GR", "TR", "RU", "UA", "TH", "VN", "ID", "IL", "ZA"),
    *("SA", "NG", "SG"),
)


class Presidio(Section):
    """Presidio's recognisers beside ours; they only report."""

    engine_conf: str = "no_op"
    """File that configures Presidio's language engine. `no_op` runs its patterns without a model; Presidio's own
    default would download one."""
    language: str = "en"
    """Language of the rows."""
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    """Smallest score that counts."""
    entities: list[str] = Field(default_factory=list)
    """Presidio's names of what it looks for; empty: everything it knows."""


class NameModel(Section):
    """A token-classification model in ONNX form; it only reports."""

    model_dir: str
    """Folder with `model.onnx`, `tokenizer.json` and `config.json` (its `id2label`)."""
    threshold: float = Field(default=0.8, ge=0.0, le=1.0)
    """Smallest probability of a label that counts."""
    max_tokens: int = Field(default=256, ge=16, le=8192)
    """Longest piece the model reads at once, in tokens."""


class Pii(Section):
    """Personal data and secrets in the rows."""

    action: Action = "report"
    """Done to personal data: report it, redact (`[EMAIL]`), pseudonymise (the same stand-in for the same value), mask
    (`j***@e***.com`), drop the row, or stop with an error."""
    secrets: Action = "redact"
    """Done to keys, tokens, passwords and private keys."""
    types: dict[PiiType, Action] = Field(default_factory=dict)
    """Another action for single types, for example `phone: redact`."""
    allow: list[str] = Field(default_factory=list)
    """Values that may stay, such as your own support address; `@example.org` stands for every address there."""
    phone_regions: list[str] = Field(default_factory=lambda: list(DEFAULT_REGIONS), min_length=1)
    """Countries (two letters) whose national phone numbers are recognised; international ones always are."""
    on_residual: Literal["error", "report", "drop"] = "error"
    """When a changed row is scanned again and something is still found."""
    key_env: str | None = None
    """Environment variable with the key of the pseudonyms (16 bytes or more). Without it each run makes its own key,
    and the stand-ins differ from run to run."""
    presidio: Presidio | None = None
    """Presidio's recognisers beside ours; needs the extra `presidio`."""
    name_model: NameModel | None = None
    """A local model that finds names; needs the extra `ner`."""

    @field_validator("phone_regions")
    @classmethod
    def known_regions(cls, regions: list[str]) -> list[str]:
        if set(regions) <= set(DEFAULT_REGIONS):
            return regions
        from phonenumbers import SUPPORTED_REGIONS  # noqa: PLC0415  slow, and mostly not needed

        if wrong := [region for region in regions if region not in SUPPORTED_REGIONS]:
            message = f"{wrong[0]!r} is no country of two capital letters, such as US"
            raise ValueError(message + _suggested_country(wrong[0], SUPPORTED_REGIONS))
        return regions

    @field_validator("allow")
    @classmethod
    def allowed_values_are_values(cls, allow: list[str]) -> list[str]:
        if any(len(value.strip()) < 4 for value in allow):
            raise ValueError("a value of `allow` has fewer than 4 characters")
        return allow

    @model_validator(mode="after")
    def key_env_is_a_name(self) -> Pii:
        if self.key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", self.key_env):
            # The value is not shown: people paste the key itself here.
            raise ValueError("is the name of an environment variable, never the key itself")
        return self


COUNTRY_NAMES = {
    **dict.fromkeys(("UK", "GBR", "EN", "ENGLAND"), "GB"),
    **dict.fromkeys(("USA", "AMERICA"), "US"),
    **dict.fromkeys(("JAP", "JPN", "JA"), "JP"),
    **dict.fromkeys(("CHN", "PRC", "ZH"), "CN"),
    **dict.fromkeys(("GER", "DEU"), "DE"),
    **{"FRA": "FR", "ESP": "ES", "ITA": "IT", "KOR": "KR", "KO": "KR", "EL": "GR", "CS": "CZ", "DA": "DK"},
    **{"HE": "IL", "UKR": "UA", "HI": "IN", "BRA": "BR", "CAN": "CA", "AUS": "AU", "NLD": "NL"},
}
"""What people write for a country, names of languages among it -> its code (ISO 3166-1 alpha-2)."""


def _suggested_country(region: str, codes: Collection[str]) -> str:
    """Return the end of a message that names the country which was most likely meant."""
    written = region.strip().upper()
    code = COUNTRY_NAMES.get(written, written)
    return f"; did you mean {code}?" if code in codes else ""


def pseudonymises(section: Pii) -> bool:
    """Tell whether some type gets pseudonyms."""
    return "pseudonymise" in {section.action, section.secrets, *section.types.values()}


def pseudonyms_pass_away(section: Pii) -> bool:
    """Tell whether the next run would draw other pseudonyms: no key is named."""
    return pseudonymises(section) and section.key_env is None
