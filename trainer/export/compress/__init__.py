"""Write compressed safetensors for vLLM and transformers, by llm-compressor in an environment of its own.

compressor  finds that environment, and runs the worker in it
worker      the script that it runs: imports llm-compressor and nothing of this package
"""
