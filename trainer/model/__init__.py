"""Base models and adapters: where they are, loading, merging. Silences the advice of bitsandbytes."""

import logging

# On import bitsandbytes advises to install hub kernels, which would run downloaded code; errors still come through.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
