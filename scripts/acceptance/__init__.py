"""Parts of scripts/gpu_acceptance.py."""

import trainer.model  # noqa: F401  before bitsandbytes: silences its advice
