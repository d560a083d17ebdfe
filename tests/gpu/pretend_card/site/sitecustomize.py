"""Give every Python process that is started with PRETEND_CARD a pretend card, once it imports torch."""

import importlib.abc
import importlib.machinery
import os
import sys
from pathlib import Path


class _WithCard(importlib.abc.Loader):
    """Load torch with the card behind it, and bitsandbytes with its library for the CPU."""

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader  # as it is without us
        if module.__name__ == "torch":
            sys.path.insert(0, str(Path(__file__).parents[1]))
            import card

            sys.path.pop(0)
            library = card.Library()  # before torch asks for a card
            self.loader.exec_module(module)
            card.install(library)
            return
        torch = sys.modules["torch"]
        is_available, torch.cuda.is_available = torch.cuda.is_available, lambda: False
        try:
            self.loader.exec_module(module)
        finally:
            torch.cuda.is_available = is_available


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "bitsandbytes":
            import torch  # noqa: F401  # so that ours is set up first
        if name not in ("torch", "bitsandbytes"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WithCard(spec.loader)
        return spec


if os.environ.get("PRETEND_CARD"):
    sys.meta_path.insert(0, _Finder())
