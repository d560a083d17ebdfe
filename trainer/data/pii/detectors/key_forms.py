"""List the forms of keys and tokens as their providers document them: a lead, and the body after it.

Source of each form: the provider's documentation of its credentials (formats, lengths, alphabets). Lengths are bounds
where a provider gives none or has changed it.
"""

from __future__ import annotations

from typing import NamedTuple

HEX = "[0-9a-f]"
ALNUM = "[A-Za-z0-9]"
URLSAFE = "[A-Za-z0-9_-]"
BASE64 = "[A-Za-z0-9+/]"
UUID = f"{HEX}{{8}}(?:-{HEX}{{4}}){{3}}-{HEX}{{12}}"


class KeyForm(NamedTuple):
    """The form of one kind of key.

    Args:
        lead: literal start, two characters or more.
        body: pattern of the random part.
        keeps_lead: the lead is a name such as `AccountKey=`, and no part of the secret.
    """

    lead: str
    body: str
    keeps_lead: bool = False


def _forms(body: str, *leads: str) -> tuple[KeyForm, ...]:
    return tuple(KeyForm(lead, body) for lead in leads)


CLOUD = (
    *_forms(r"[A-Z2-7]{16}", "AKIA", "ASIA", "ABIA", "ACCA"),
    *_forms(rf"{BASE64}{{100,4000}}={{0,2}}", "IQoJb3JpZ2lu", "FwoGZXIvYXdz", "FQoGZXIvYXdz"),
    KeyForm("ABSKQmVkcm9ja0FQSUtleS", rf"{BASE64}{{60,400}}={{0,2}}"),
    KeyForm("bedrock-api-key-", rf"{BASE64}{{60,4000}}={{0,2}}"),
    KeyForm("AccountKey=", rf"{BASE64}{{86}}==", keeps_lead=True),
    KeyForm("SharedAccessKey=", rf"{BASE64}{{43}}=", keeps_lead=True),
    KeyForm("AIza", rf"{URLSAFE}{{35}}"),
    KeyForm("GOCSPX-", rf"{URLSAFE}{{28}}"),
    KeyForm("ya29.", rf"{URLSAFE}{{20,2000}}"),
    KeyForm("1//0", rf"{URLSAFE}{{40,250}}"),
    *_forms(rf"{HEX}{{64}}", "dop_v1_", "doo_v1_", "dor_v1_"),
    KeyForm("v1.0-", rf"{HEX}{{24}}-{HEX}{{146}}"),
    KeyForm("LTAI", rf"{ALNUM}{{12,26}}"),
    KeyForm("AKID", rf"{ALNUM}{{32,}}"),
    KeyForm("HRKU-", rf"{URLSAFE}{{36,64}}"),
    *_forms(rf"{BASE64[:-1]}_=,-]{{43,2000}}", "fo1_", "fm1_", "fm2_"),
    *_forms(rf"{URLSAFE}{{32,64}}", "pscale_tkn_", "pscale_pw_", "pscale_oauth_"),
    *_forms(rf"{ALNUM}{{32,64}}", "nfp_", "nfo_", "nfc_"),
    KeyForm("rnd_", rf"{ALNUM}{{24,40}}"),
    *_forms(rf"{URLSAFE}{{48}}", "tk-us-", "tk-eu-"),
    *_forms(rf"{URLSAFE}{{35,38}}", "AQVN", "YCAJ", "YCP"),
    *_forms(rf"{ALNUM}{{8,20}}(?:CNTRL)?-{ALNUM}{{20,40}}", "tskey-auth-", "tskey-api-", "tskey-client-"),
    KeyForm("sbp_", rf"(?:v0_)?{HEX}{{40}}"),
    KeyForm("sb_secret_", rf"{URLSAFE}{{24,64}}"),
    KeyForm("dapi", rf"{HEX}{{32}}(?:-\d)?"),
)

BUILD = (
    *_forms(rf"{ALNUM}{{36,251}}", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    KeyForm("github_pat_", rf"{ALNUM}{{22}}_{ALNUM}{{59}}"),
    *_forms(
        rf"{URLSAFE}{{20,300}}(?:\.[a-z0-9]{{2}}\.[a-z0-9]{{9}})?",
        *("glpat-", "gldt-", "glrt-", "glrtr-", "glptt-", "glft-", "glimt-"),
        *("glagent-", "gloas-", "glsoat-", "glffct-", "glcbt-", "glwt-"),
    ),
    KeyForm("ATBB", rf"{ALNUM}{{32}}"),
    *_forms(rf"{URLSAFE}{{100,400}}(?:=[0-9A-F]{{8}}|={ALNUM}{{8}})?", "ATATT3xFfG", "ATCTT3xFfG"),
    KeyForm("npm_", rf"{ALNUM}{{36}}"),
    *_forms(rf"{URLSAFE}{{50,400}}", "pypi-AgEIcHlwaS5vcmc", "pypi-AgENdGVzdC5weXBpLm9yZw"),
    KeyForm("rubygems_", rf"{HEX}{{48}}"),
    KeyForm("cio", rf"{ALNUM}{{32}}"),
    KeyForm("oy2", r"[a-z0-9]{43}"),
    KeyForm("CLOJARS_", rf"{HEX}{{60}}"),
    *_forms(rf"{URLSAFE}{{27,32}}", "dckr_pat_", "dckr_oat_"),
    KeyForm("AKCp", rf"{ALNUM}{{69}}"),
    KeyForm("cmVmdGtu", rf"{ALNUM}{{56}}"),
    *_forms(rf"{HEX}{{40}}", "squ_", "sqp_", "sqa_", "bkua_", "bkaj_", "pul-"),
    *_forms(rf"{ALNUM}{{20,24}}_{HEX}{{40}}", "CCIPAT_", "CCIPRJ_"),
    *_forms(rf"{URLSAFE}{{24,400}}", "hvs.", "hvb.", "hvr."),
    *_forms(
        rf"(?:[a-z0-9_-]{{2,35}}\.)?{ALNUM}{{40,44}}", "dp.pt.", "dp.st.", "dp.ct.", "dp.sa.", "dp.scim.", "dp.audit."
    ),
    KeyForm("PMAK-", rf"{HEX}{{24}}-{HEX}{{34}}"),
    KeyForm("sha256~", rf"{URLSAFE}{{43}}"),
    KeyForm("sgp_", rf"(?:{HEX}{{16}}_|local_)?{HEX}{{40}}"),
    KeyForm("AGE-SECRET-KEY-1", r"[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    KeyForm("ops_eyJ", rf"{BASE64[:-1]}_-]{{80,2000}}={{0,2}}"),
    KeyForm("A3-", r"[A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})(?:-[A-Z0-9]{5}){3}"),
    *_forms(rf"{ALNUM}{{36}}", "pnu_", "pnb_"),
)

MODELS = (
    *_forms(rf"{URLSAFE}{{40,250}}", "sk-ant-api03-", "sk-ant-admin01-", "sk-ant-oat01-", "sk-ant-"),
    *_forms(rf"{URLSAFE}{{20,250}}", "sk-proj-", "sk-svcacct-", "sk-admin-", "sk-or-v1-", "sk-None-", "sk-"),
    *_forms(rf"{ALNUM}{{30,64}}", "hf_", "api_org_"),
    *_forms(rf"{ALNUM}{{40,100}}", "gsk_", "xai-", "pplx-"),
    *_forms(rf"(?:dev-|prod-)?{ALNUM}{{24,64}}(?:-{ALNUM}{{16,64}})?", "tvly-"),
    KeyForm("pcsk_", rf"{ALNUM}{{4,8}}_{ALNUM}{{40,80}}"),
    KeyForm("r8_", rf"{ALNUM}{{37}}"),
    KeyForm("nvapi-", rf"{URLSAFE}{{60,70}}"),
    *_forms(rf"{ALNUM}{{22,32}}", "fw_", "fpk_"),
    KeyForm("csk-", r"[a-z0-9]{48}"),
    KeyForm("pa-", rf"{URLSAFE}{{43}}"),
    KeyForm("jina_", rf"{HEX}{{32}}{URLSAFE}{{20,40}}"),
    *_forms(rf"{HEX}{{32}}_{HEX}{{10}}", "lsv2_pt_", "lsv2_sk_"),
    KeyForm("tgp_v1_", rf"{URLSAFE}{{43}}"),
    KeyForm("fc-", rf"{HEX}{{32}}"),
    KeyForm("sk_", rf"{HEX}{{48}}"),
)

OFFICE = (
    *_forms(
        r"(?:[A-Za-z0-9]+-){1,5}[A-Za-z0-9]{10,128}", "xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxo-", "xoxc-"
    ),
    KeyForm("xoxd-", r"[A-Za-z0-9%/+=_-]{40,400}"),
    KeyForm("xapp-", r"\d-[A-Z0-9]{8,14}-\d{9,16}-[A-Za-z0-9]{40,80}"),
    *_forms(rf"{ALNUM}{{100,250}}", "xoxe.xoxp-1-", "xoxe.xoxb-1-", "xoxe-1-"),
    *_forms(
        rf"[A-Z0-9]{{6,14}}/[A-Z0-9]{{6,16}}/{ALNUM}{{18,64}}",
        *(f"hooks.slack.com/{kind}/" for kind in ("services", "workflows", "triggers")),
    ),
    *_forms(rf"\d{{17,20}}/{URLSAFE}{{60,80}}", "discord.com/api/webhooks/", "discordapp.com/api/webhooks/"),
    KeyForm("SK", rf"{HEX}{{32}}"),
    KeyForm("SG.", rf"{URLSAFE}{{22}}\.{URLSAFE}{{43}}"),
    KeyForm("key-", rf"{HEX}{{32}}"),
    *_forms(rf"{HEX}{{64}}-{ALNUM}{{16}}", "xkeysib-", "xsmtpsib-"),
    KeyForm("re_", rf"{ALNUM}{{8}}_{ALNUM}{{20,28}}"),
    *_forms(rf"{ALNUM}{{43,50}}", "ntn_", "secret_"),
    *_forms(rf"{ALNUM}{{40,64}}", "lin_api_", "lin_oauth_"),
    KeyForm("pat", rf"{ALNUM}{{14}}\.{HEX}{{64}}"),
    *_forms(rf"{URLSAFE}{{40,60}}", "figd_", "figo_", "figr_"),
    *_forms(rf"{UUID}", *(f"pat-{region}-" for region in ("na1", "na2", "eu1", "ap1"))),
    KeyForm("tfp_", rf"{URLSAFE}{{40,80}}"),
    KeyForm("CFPAT-", rf"{URLSAFE}{{43}}"),
    *_forms(rf"(?:u\.)?{URLSAFE}{{100,1500}}", "sl."),
    KeyForm("sk.eyJ", rf"{ALNUM}{{40,200}}\.{URLSAFE}{{20,30}}"),
    KeyForm("EAA", rf"{ALNUM}{{80,400}}"),
    KeyForm("AAAAAAAAAAAAAAAAAAAAA", r"[A-Za-z0-9%]{70,200}"),
)

MONEY = (
    *_forms(rf"{ALNUM}{{16,247}}", "sk_live_", "sk_test_", "rk_live_", "rk_test_", "sk_org_"),
    KeyForm("whsec_", rf"{BASE64}{{32,64}}=?"),
    *_forms(rf"{URLSAFE}{{22,43}}", "sq0atp-", "sq0csp-", "sq0idp-"),
    KeyForm("EAAA", rf"{URLSAFE}{{60}}"),
    *_forms(r"[0-9a-fA-F]{32}", "shpat_", "shpca_", "shppa_", "shpss_"),
    *_forms(rf"{HEX}{{40}}", "shippo_live_", "shippo_test_"),
    *_forms(rf"{ALNUM}{{54}}", "EZAK", "EZTK"),
    *_forms(rf"{URLSAFE}{{43}}", "duffel_live_", "duffel_test_"),
    *_forms(rf"{UUID}", "access-production-", "access-sandbox-", "access-development-"),
    *_forms(rf"{HEX}{{32}}-X", "FLWSECK-", "FLWSECK_TEST-"),
)

WATCHING = (
    KeyForm("glsa_", rf"{ALNUM}{{32}}_{HEX}{{8}}"),
    KeyForm("glc_", rf"{BASE64}{{32,400}}={{0,2}}"),
    KeyForm("sntrys_", rf"{BASE64}{{40,400}}={{0,2}}(?:_{BASE64}{{30,60}})?"),
    *_forms(rf"{HEX}{{64}}", "sntryu_", "sntrya_"),
    *_forms(r"[A-Z0-9]{27}", "NRAK-"),
    *_forms(r"[A-Za-z0-9_-]{20,40}", "NRII-", "NRJS-"),
    KeyForm("dt0c01.", r"[A-Z2-7]{24}\.[A-Z2-7]{64}"),
    KeyForm("dt0s16.", r"[A-Z2-7]{8}\.[A-Z2-7]{64}"),
    *_forms(r"[a-z0-9]{32,64}", "hcaik_", "hcbik_", "hcxik_"),
)

LED = (*CLOUD, *BUILD, *MODELS, *OFFICE, *MONEY, *WATCHING)
"""Forms that begin with fixed text."""

DISCORD = r"(?P<value>[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40})"

UNLED = (
    (r"sig=(?P<value>[A-Za-z0-9%+/]{43,90}(?:%3[Dd]|=)?)", "sig="),
    (rf"(?P<value>{ALNUM}{{14}}\.atlasv1\.{URLSAFE}{{60,70}})", ".atlasv1."),
    (rf"(?P<value>\d{{8,10}}:AA{URLSAFE}{{33}})", ":AA"),
    (rf"(?P<value>{HEX}{{32}}-us\d{{1,2}})", "-us"),
    (r"(?P<value>[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34})", "Q~"),
    (rf"(?P<value>{ALNUM}{{76}}AZDO{ALNUM}{{4}})", "AZDO"),
)
"""Forms with fixed text inside: pattern, and that text as a cheap test before the pattern."""
