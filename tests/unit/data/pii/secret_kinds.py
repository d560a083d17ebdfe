"""Draw secrets of every kind that providers document, in the texts where people leave them.

`FIXED` holds values whose form gives them away: each stands in `TEXTS`. `NAMED` holds values without a form of their
own: each comes with the text that names it. Values are drawn, so that no scanner takes this file for a leak.
"""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable

Draw = Callable[[random.Random], str]

HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase
LOWER = string.ascii_lowercase
LETTERS = string.ascii_letters
ALNUM = string.ascii_letters + string.digits
BASE64 = ALNUM + "+/"
URLSAFE = ALNUM + "-_"
BASE32 = UPPER + "234567"
LOWER_ALNUM = LOWER + string.digits
UPPER_ALNUM = UPPER + string.digits

TEXTS = (
    "Use {} for the call, then rotate it.",
    "export SERVICE={}\npython main.py",
    'client = Client("{}")',
    '{{"auth": "{}", "retries": 3}}',
    "我的密钥是{}，请不要外传。",
    "It is `{}`.",
)


def of(*parts: str | tuple[str, int] | tuple[str, int, int]) -> Draw:
    """Build a value of fixed text and of drawn characters: an alphabet with a length, or with two bounds of one."""

    def draw(rng: random.Random) -> str:
        pieces = []
        for part in parts:
            if isinstance(part, str):
                pieces.append(part)
            else:
                length = part[1] if len(part) == 2 else rng.randint(part[1], part[2])
                pieces.append("".join(rng.choices(part[0], k=length)))
        return "".join(pieces)

    return draw


def encoded(prefix: str, content: Callable[[random.Random], object], *, pad: bool = True) -> Draw:
    """Build `prefix` and the base64 of JSON, as tokens that carry their own description have it."""

    def draw(rng: random.Random) -> str:
        text = base64.b64encode(json.dumps(content(rng), separators=(",", ":")).encode()).decode()
        return prefix + (text if pad else text.rstrip("="))

    return draw


def hexadecimal(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(HEX, k=length))


def uuid(rng: random.Random) -> str:
    return "-".join(hexadecimal(rng, length) for length in (8, 4, 4, 4, 12))


def jwt(rng: random.Random) -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"iss": "supabase", "role": "service_role", "ref": hexadecimal(rng, 20)})
    encoded_parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded_parts, of((URLSAFE, 43))(rng)])


def bedrock(rng: random.Random) -> str:
    raw = f"BedrockAPIKey-{''.join(rng.choices(LOWER_ALNUM, k=4))}-at-{''.join(rng.choices('123456789', k=12))}:"
    return "ABSK" + base64.b64encode((raw + of((BASE64, 44))(rng)).encode()).decode()


def azure_sas(rng: random.Random) -> str:
    signature = base64.b64encode(rng.randbytes(32)).decode()
    quoted = signature.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    return f"sv=2022-11-02&ss=b&srt=sco&sp=rl&se=2026-01-01T00:00:00Z&spr=https&sig={quoted}"


def one_password_key(rng: random.Random) -> str:
    return "A3-" + "-".join("".join(rng.choices(UPPER_ALNUM, k=length)) for length in (6, 6, 5, 5, 5, 5))


def pem(label: str, *, headers: str = "", newline: str = "\n") -> Draw:
    def draw(rng: random.Random) -> str:
        body = ["".join(rng.choices(BASE64, k=64)) for _ in range(rng.randint(4, 24))] + [of((BASE64, 30), "==")(rng)]
        lines = [f"-----BEGIN {label}-----", *(headers.split("\n") if headers else []), *body, f"-----END {label}-----"]
        return newline.join(lines)

    return draw


def putty(rng: random.Random) -> str:
    lines = ["".join(rng.choices(BASE64, k=64)) for _ in range(6)]
    return "\n".join(
        [
            "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: ann@laptop\nPublic-Lines: 2",
            *lines[:2],
            "Private-Lines: 4",
            *lines[2:],
            "Private-MAC: " + hexadecimal(rng, 64),
        ]
    )


FIXED: dict[str, Draw] = {
    # clouds
    "aws_access_key_id": of("AKIA", (BASE32, 16)),
    "aws_temporary_key_id": of("ASIA", (BASE32, 16)),
    "aws_session_token": of("IQoJb3JpZ2luX2Vj", (BASE64, 300, 500), "=="),
    "aws_bedrock_long": bedrock,
    "aws_bedrock_short": of("bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29t", (BASE64, 200, 400)),
    "azure_storage_key": of("AccountName=shop;AccountKey=", (BASE64, 86), "=="),
    "azure_service_bus_key": of("SharedAccessKeyName=Root;SharedAccessKey=", (BASE64, 43), "="),
    "azure_sas": azure_sas,
    "azure_ad_client_secret": of((URLSAFE, 3), "8Q~", (URLSAFE + ".~", 34)),
    "azure_devops_pat": of((ALNUM, 76), "AZDO", (ALNUM, 4)),
    "google_api_key": of("AIza", (URLSAFE, 35)),
    "google_oauth_secret": of("GOCSPX-", (URLSAFE, 28)),
    "google_access_token": of("ya29.", (URLSAFE, 100, 200)),
    "google_refresh_token": of("1//0", (ALNUM, 1), (URLSAFE, 60, 100)),
    "digitalocean_pat": of("dop_v1_", (HEX, 64)),
    "digitalocean_oauth": of("doo_v1_", (HEX, 64)),
    "digitalocean_refresh": of("dor_v1_", (HEX, 64)),
    "cloudflare_origin_ca": of("v1.0-", (HEX, 24), "-", (HEX, 146)),
    "alibaba_access_key_id": of("LTAI", (ALNUM, 20)),
    "tencent_secret_id": of("AKID", (ALNUM, 32)),
    "heroku_key": of("HRKU-AA", (URLSAFE, 58)),
    "fly_token": of("fm2_", (BASE64, 100, 300)),
    "planetscale_token": of("pscale_tkn_", (URLSAFE, 43)),
    "planetscale_password": of("pscale_pw_", (URLSAFE, 43)),
    "netlify_token": of("nfp_", (ALNUM, 36)),
    "render_key": of("rnd_", (ALNUM, 28)),
    "scalingo_token": of("tk-us-", (URLSAFE, 48)),
    "yandex_key": of("AQVN", (URLSAFE, 36)),
    "tailscale_key": of("tskey-auth-", (ALNUM, 12), "CNTRL-", (ALNUM, 32)),
    "supabase_pat": of("sbp_", (HEX, 40)),
    "supabase_secret": of("sb_secret_", (URLSAFE, 31)),
    "supabase_service_role": jwt,
    "databricks_token": of("dapi", (HEX, 32)),
    # code, packages, builds
    "github_pat": of("ghp_", (ALNUM, 36)),
    "github_oauth": of("gho_", (ALNUM, 36)),
    "github_user": of("ghu_", (ALNUM, 36)),
    "github_server": of("ghs_", (ALNUM, 36)),
    "github_refresh": of("ghr_", (ALNUM, 36)),
    "github_fine_grained": of("github_pat_", (ALNUM, 22), "_", (ALNUM, 59)),
    "gitlab_pat": of("glpat-", (URLSAFE, 20)),
    "gitlab_deploy": of("gldt-", (URLSAFE, 20)),
    "gitlab_runner": of("glrt-", (URLSAFE, 20)),
    "gitlab_trigger": of("glptt-", (HEX, 40)),
    "gitlab_job": of("glcbt-", (ALNUM, 2), "_", (URLSAFE, 20)),
    "gitlab_agent": of("glagent-", (URLSAFE, 50)),
    "bitbucket_app_password": of("ATBB", (ALNUM, 32)),
    "atlassian_token": of("ATATT3xFfGF0", (URLSAFE, 171), "=", (UPPER_ALNUM, 8)),
    "npm_token": of("npm_", (ALNUM, 36)),
    "pypi_token": of("pypi-AgEIcHlwaS5vcmc", (URLSAFE, 130, 160)),
    "test_pypi_token": of("pypi-AgENdGVzdC5weXBpLm9yZw", (URLSAFE, 130, 160)),
    "rubygems_key": of("rubygems_", (HEX, 48)),
    "crates_token": of("cio", (ALNUM, 32)),
    "nuget_key": of("oy2", (LOWER_ALNUM, 43)),
    "clojars_token": of("CLOJARS_", (HEX, 60)),
    "docker_pat": of("dckr_pat_", (URLSAFE, 27)),
    "docker_oat": of("dckr_oat_", (URLSAFE, 32)),
    "jfrog_key": of("AKCp", (ALNUM, 69)),
    "jfrog_reference": of("cmVmdGtu", (ALNUM, 56)),
    "sonar_token": of("squ_", (HEX, 40)),
    "buildkite_token": of("bkua_", (HEX, 40)),
    "circleci_token": of("CCIPAT_", (ALNUM, 22), "_", (HEX, 40)),
    "terraform_cloud": of((ALNUM, 14), ".atlasv1.", (ALNUM, 67)),
    "vault_service": of("hvs.", (URLSAFE, 90, 100)),
    "vault_batch": of("hvb.", (URLSAFE, 138, 160)),
    "doppler_token": of("dp.pt.", (ALNUM, 43)),
    "doppler_service": of("dp.st.prd.", (ALNUM, 43)),
    "pulumi_token": of("pul-", (HEX, 40)),
    "postman_key": of("PMAK-", (HEX, 24), "-", (HEX, 34)),
    "openshift_token": of("sha256~", (URLSAFE, 43)),
    "sourcegraph_token": of("sgp_", (HEX, 16), "_", (HEX, 40)),
    "age_key": of("AGE-SECRET-KEY-1", ("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58)),
    "one_password_service": encoded(
        "ops_", lambda rng: {"signInAddress": "my.1password.com", "secretKey": of((URLSAFE, 150))(rng)}, pad=False
    ),
    "one_password_secret_key": one_password_key,
    # models
    "openai_legacy": of("sk-", (ALNUM, 20), "T3BlbkFJ", (ALNUM, 20)),
    "openai_project": of("sk-proj-", (URLSAFE, 74), "T3BlbkFJ", (URLSAFE, 74)),
    "openai_service": of("sk-svcacct-", (URLSAFE, 74), "T3BlbkFJ", (URLSAFE, 74)),
    "openai_admin": of("sk-admin-", (URLSAFE, 58), "T3BlbkFJ", (URLSAFE, 58)),
    "anthropic_key": of("sk-ant-api03-", (URLSAFE, 93), "AA"),
    "anthropic_admin": of("sk-ant-admin01-", (URLSAFE, 93), "AA"),
    "anthropic_oauth": of("sk-ant-oat01-", (URLSAFE, 93), "AA"),
    "openrouter_key": of("sk-or-v1-", (HEX, 64)),
    "deepseek_key": of("sk-", (HEX, 32)),
    "langfuse_key": lambda rng: "sk-lf-" + uuid(rng),
    "hugging_face": of("hf_", (LETTERS, 34)),
    "hugging_face_org": of("api_org_", (LETTERS, 34)),
    "groq_key": of("gsk_", (ALNUM, 52)),
    "xai_key": of("xai-", (ALNUM, 80)),
    "perplexity_key": of("pplx-", (ALNUM, 48)),
    "tavily_key": of("tvly-", (ALNUM, 32)),
    "tavily_dev_key": of("tvly-dev-", (ALNUM, 32)),
    "pinecone_key": of("pcsk_", (ALNUM, 5), "_", (ALNUM, 63)),
    "replicate_token": of("r8_", (ALNUM, 37)),
    "nvidia_key": of("nvapi-", (URLSAFE, 64)),
    "fireworks_key": of("fw_", (ALNUM, 24)),
    "cerebras_key": of("csk-", (LOWER_ALNUM, 48)),
    "voyage_key": of("pa-", (URLSAFE, 43)),
    "jina_key": of("jina_", (HEX, 32), (URLSAFE, 28)),
    "langsmith_pat": of("lsv2_pt_", (HEX, 32), "_", (HEX, 10)),
    "langsmith_service": of("lsv2_sk_", (HEX, 32), "_", (HEX, 10)),
    "firecrawl_key": of("fc-", (HEX, 32)),
    "elevenlabs_key": of("sk_", (HEX, 48)),
    # messages and offices
    "slack_bot": of("xoxb-", ("123456789", 12), "-", ("123456789", 13), "-", (ALNUM, 24)),
    "slack_user": of("xoxp-", ("123456789", 12), "-", ("123456789", 12), "-", ("123456789", 13), "-", (HEX, 32)),
    "slack_app": of("xapp-1-A", (UPPER_ALNUM, 10), "-", ("123456789", 13), "-", (HEX, 64)),
    "slack_config": of("xoxe.xoxp-1-", (BASE64.replace("+/", ""), 166)),
    "slack_refresh": of("xoxe-1-", (ALNUM, 147)),
    "slack_webhook": of(
        "https://hooks.slack.com/services/T", (UPPER_ALNUM, 10), "/B", (UPPER_ALNUM, 10), "/", (ALNUM, 24)
    ),
    "discord_bot": of("MT", (ALNUM, 24), ".G", (URLSAFE, 5), ".", (URLSAFE, 38)),
    "discord_webhook": of("https://discord.com/api/webhooks/", ("123456789", 19), "/", (URLSAFE, 68)),
    "telegram_bot": of(("123456789", 10), ":AA", (URLSAFE, 33)),
    "twilio_key": of("SK", (HEX, 32)),
    "sendgrid_key": of("SG.", (URLSAFE, 22), ".", (URLSAFE, 43)),
    "mailchimp_key": of((HEX, 32), "-us", ("123456789", 1)),
    "mailgun_key": of("key-", (HEX, 32)),
    "brevo_key": of("xkeysib-", (HEX, 64), "-", (ALNUM, 16)),
    "resend_key": of("re_", (ALNUM, 8), "_", (ALNUM, 24)),
    "notion_token": of("ntn_", (ALNUM, 46)),
    "notion_secret": of("secret_", (ALNUM, 43)),
    "linear_key": of("lin_api_", (ALNUM, 40)),
    "airtable_pat": of("pat", (ALNUM, 14), ".", (HEX, 64)),
    "figma_pat": of("figd_", (URLSAFE, 40)),
    "hubspot_app": lambda rng: "pat-na1-" + uuid(rng),
    "typeform_pat": of("tfp_", (URLSAFE, 44), "_", (ALNUM, 14)),
    "contentful_pat": of("CFPAT-", (URLSAFE, 43)),
    "dropbox_token": of("sl.", (URLSAFE, 130, 152)),
    "mapbox_secret": of("sk.eyJ1Ijoi", (ALNUM, 60, 80), ".", (URLSAFE, 22)),
    "facebook_token": of("EAA", (ALNUM, 120, 200)),
    "twitter_bearer": of("AAAAAAAAAAAAAAAAAAAAA", (ALNUM, 80, 90)),
    # money
    "stripe_live": of("sk_live_", (ALNUM, 99)),
    "stripe_restricted": of("rk_live_", (ALNUM, 99)),
    "stripe_test": of("sk_test_", (ALNUM, 24)),
    "stripe_webhook": of("whsec_", (ALNUM, 32)),
    "square_token": of("sq0atp-", (URLSAFE, 22)),
    "square_secret": of("sq0csp-", (URLSAFE, 43)),
    "square_production": of("EAAA", (URLSAFE, 60)),
    "shopify_token": of("shpat_", (HEX, 32)),
    "shopify_custom": of("shpca_", (HEX, 32)),
    "shopify_private": of("shppa_", (HEX, 32)),
    "shopify_secret": of("shpss_", (HEX, 32)),
    "shippo_token": of("shippo_live_", (HEX, 40)),
    "easypost_key": of("EZAK", (ALNUM, 54)),
    "duffel_token": of("duffel_live_", (URLSAFE, 43)),
    "plaid_token": lambda rng: "access-production-" + uuid(rng),
    "flutterwave_key": of("FLWSECK-", (HEX, 32), "-X"),
    # watching
    "grafana_service": of("glsa_", (ALNUM, 32), "_", (HEX, 8)),
    "grafana_cloud": encoded("glc_", lambda rng: {"o": "1", "n": "x", "k": of((ALNUM, 24))(rng), "m": {"r": "us"}}),
    "sentry_org": encoded(
        "sntrys_", lambda rng: {"iat": 1, "url": "https://sentry.io", "org": of((LOWER, 9))(rng)}, pad=True
    ),
    "sentry_user": of("sntryu_", (HEX, 64)),
    "new_relic_user": of("NRAK-", (UPPER_ALNUM, 27)),
    "dynatrace_token": of("dt0c01.", (BASE32, 24), ".", (BASE32, 64)),
    "honeycomb_key": of("hcaik_", (LOWER_ALNUM, 58)),
    "prefect_key": of("pnu_", (ALNUM, 36)),
    # whole blocks
    "jwt": jwt,
    "pem_rsa": pem("RSA PRIVATE KEY"),
    "pem_escaped": pem("PRIVATE KEY", newline="\\n"),
    "pem_encrypted_pkcs8": pem("ENCRYPTED PRIVATE KEY"),
    "pem_encrypted_legacy": pem(
        "RSA PRIVATE KEY", headers="Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,8F3B11D05C2A77E94D01AA6B90FE2C38\n"
    ),
    "pem_ec": pem("EC PRIVATE KEY"),
    "pem_openssh": pem("OPENSSH PRIVATE KEY"),
    "pgp_private": pem("PGP PRIVATE KEY BLOCK", headers="Version: GnuPG v2\nComment: for - the build\n"),
    "putty": putty,
}
"""Kind -> a value that its form alone gives away. Source of each form: the provider's own documentation."""


def sentence(before: str, value: Draw, after: str = "") -> Callable[[random.Random], tuple[str, str]]:
    def draw(rng: random.Random) -> tuple[str, str]:
        drawn = value(rng)
        return before + drawn + after, drawn

    return draw


def basic(rng: random.Random) -> str:
    return base64.b64encode(("svc:" + of((ALNUM, 14))(rng)).encode()).decode()


PASSWORD = of((LETTERS, 5), ("0123456789", 3), ("!%*_", 1), (ALNUM, 5))

NAMED: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "aws_secret_key": sentence("aws_secret_access_key = ", of((BASE64, 40))),
    "aws_secret_key_json": sentence('{"SecretAccessKey": "', of((BASE64, 40)), '"}'),
    "cloudflare_token": sentence("CLOUDFLARE_API_TOKEN=", of((URLSAFE, 40))),
    "cloudflare_global_key": sentence("X-Auth-Key: ", of((HEX, 37))),
    "wandb_key": sentence("export WANDB_API_KEY=", of((HEX, 40))),
    "wandb_login": sentence("wandb login ", of((HEX, 40))),
    "datadog_key": sentence("DD_API_KEY: ", of((HEX, 32))),
    "cohere_key": sentence('co = cohere.Client(api_key="', of((ALNUM, 40)), '")'),
    "mistral_key": sentence("MISTRAL_API_KEY='", of((ALNUM, 32)), "'"),
    "together_key": sentence("TOGETHER_API_KEY=", of((HEX, 64))),
    "azure_openai_key": sentence("api-key: ", of((HEX, 32))),
    "azure_subscription_key": sentence("Ocp-Apim-Subscription-Key: ", of((HEX, 32))),
    "twilio_auth_token": sentence("TWILIO_AUTH_TOKEN=", of((HEX, 32))),
    "heroku_uuid": sentence("HEROKU_API_KEY=", uuid),
    "postmark_token": sentence("X-Postmark-Server-Token: ", uuid),
    "pagerduty_token": sentence("Authorization: Token token=", of((URLSAFE, 20))),
    "basic_authorization": sentence("Authorization: Basic ", basic),
    "bearer_authorization": sentence('-H "Authorization: Bearer ', of((ALNUM, 40)), '"'),
    "curl_user": sentence("curl -u deploy:", PASSWORD, " https://api.shop.io/v1"),
    "curl_long_user": sentence("curl --user 'deploy:", PASSWORD, "' https://api.shop.io/v1"),
    "postgres_url": sentence("postgresql://app:", PASSWORD, "@db.shop.io:5432/main"),
    "mysql_url": sentence("mysql+pymysql://app:", PASSWORD, "@10.2.3.4/main"),
    "mongodb_url": sentence("mongodb+srv://app:", PASSWORD, "@cluster0.ab1cd.mongodb.net/?retryWrites=true"),
    "redis_url": sentence("redis://:", PASSWORD, "@cache:6379/0"),
    "amqp_url": sentence("amqps://app:", PASSWORD, "@mq.shop.io/vhost"),
    "https_url": sentence("git clone https://ann:", PASSWORD, "@git.shop.io/x.git"),
    "ftp_url": sentence("ftp://ann:", PASSWORD, "@files.shop.io/in"),
    "jdbc_password": sentence("jdbc:postgresql://db/main?user=app&password=", PASSWORD),
    "connection_string": sentence("Server=db;Database=main;User Id=app;Password=", PASSWORD, ";Encrypt=true"),
    "odbc_string": sentence("Driver={SQL Server};UID=app;PWD=", PASSWORD, ";"),
    "env_password": sentence("DB_PASSWORD=", PASSWORD),
    "yaml_password": sentence("  password: ", PASSWORD),
    "json_password": sentence('{"user": "ann", "password": "', PASSWORD, '"}'),
    "prose_password": sentence("The password is ", PASSWORD, "."),
    "german_password": sentence("Das Passwort lautet ", PASSWORD, "."),
    "french_password": sentence("Le mot de passe est ", PASSWORD, "."),
    "spanish_password": sentence("La contraseña es ", PASSWORD, "."),
    "chinese_password": sentence("密码：", PASSWORD, "。"),
    "sshpass": sentence("sshpass -p ", PASSWORD, " ssh root@db"),
    "mysql_flag": sentence("mysqldump -u root -p", PASSWORD, " main > out.sql"),
    "netrc": sentence("machine git.shop.io login ann password ", PASSWORD),
    "docker_login": sentence("docker login -u ann -p ", PASSWORD, " registry.shop.io"),
    "docker_auth": sentence('{"auths": {"registry.shop.io": {"auth": "', basic, '"}}}'),
    "django_secret": sentence("SECRET_KEY = '", of((LOWER_ALNUM + "!@#%^&*(-_=+)", 50)), "'"),
    "jwt_secret": sentence("JWT_SECRET=", of((HEX, 64))),
    "generic_token": sentence("API_TOKEN=", of((ALNUM, 32))),
    "generic_app_key": sentence('"app_key": "', of((HEX, 40)), '"'),
    "client_secret": sentence("client_secret: ", of((URLSAFE, 32))),
    "encryption_key": sentence("ENCRYPTION_KEY=", of((BASE64, 43), "=")),
}
"""Kind -> a text and the value in it that only its name gives away."""

INNOCENT = (
    "API_KEY_V2_PLACEHOLDER",
    "api_key = 'your-key-here'",
    "export OPENAI_API_KEY=sk-your-key-goes-here-please",
    "OPENAI_API_KEY=sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "HF_TOKEN=hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "ghp_000000000000000000000000000000000000",
    "AKIAIOSFODNN7EXAMPLE and wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "api_key=<YOUR_API_KEY>; token=${GITHUB_TOKEN}; password={{ vault.password }}",
    "password = os.environ['DB_PASSWORD']; token: str = get_token(request)",
    'headers = {"Authorization": f"Bearer {token}"}',
    "Authorization: Basic <credentials>",
    "curl -u user:password https://api.example.com",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8 fixes it",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "md5 = d41d8cd98f00b204e9800998ecf8427e",
    "The request id is 550e8400-e29b-41d4-a716-446655440000.",
    '{"id": "550e8400-e29b-41d4-a716-446655440000", "key": "users/2024/07/profile-picture.png"}',
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    '"integrity": "sha512-oBVCkC1vh2dZ9Y+R0Sz0bmPWH7Vvh0CqB2Q4JZy9hU8c2hHnV2ldlZaz7qj3g4gR8M5Zf2+yYtZ5oTnZ6o0Lbg=="',
    "primary_key=customer_order_2024_id, foreign_key: orders.customer_id",
    "The secret is to whisk the eggs; the key is preparation. A token of thanks to passwordless2024.",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2mP7q9kF0d3Lw1Zt8XbYc5VnRe4HsGuTaQoWiMkDjP ann@laptop",
    "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQ\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYWnm/eplO9BFtXsz\n-----END PUBLIC KEY-----",
    "A private key starts with -----BEGIN RSA PRIVATE KEY----- and ends with -----END RSA PRIVATE KEY-----.",
    "https://www.youtube.com/watch?v=dQw4w9WgXcQ&list=PL590L5WQmH8fJ54F369BLDSqIwcs-TCfs",
    "CSS class sk-circle-fade-dot and re_compile_pattern_cache_size_2024, fw_update_2024_01_final_v2_release_x",
    "s3://bucket/models/llama-3-8b-instruct-q4_k_m-00001-of-00002.gguf",
    "git@github.com:org/repo.git",
    "Fernet keys come from Fernet.generate_key() and base64.urlsafe_b64encode(os.urandom(32))",
    "token_type_ids, attention_mask, max_new_tokens=512, pad_token_id=151643, num_key_value_heads=8",
    "ERROR_KEY = 'errors.validation.password_too_short_v2'",
)
"""Texts that hold no secret."""
