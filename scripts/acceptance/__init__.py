"""Parts of scripts/gpu_acceptance.py."""
