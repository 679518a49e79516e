"""Memory of tensors, counted tensor by tensor, so that it can be measured without a GPU."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _LiveStorages(TorchDispatchMode):
    """Counts the bytes of the storages that operations made and that are still alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.known = set()
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        # What goes in and was not made here was there before.
        for tensor in self._tensors((arguments, keywords)):
            if tensor.untyped_storage()._cdata not in self.known:
                self._watch(tensor.untyped_storage(), 0)
        result = function(*arguments, **(keywords or {}))
        for tensor in self._tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                self._watch(storage, storage.nbytes())
        return result

    def _tensors(self, tree):
        return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided]

    def _watch(self, storage, n_bytes):
        key = storage._cdata
        self.known.add(key)
        self.live += n_bytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, n_bytes)

    def _forget(self, key, n_bytes):
        self.known.discard(key)
        self.live -= n_bytes


def peak_live_bytes(function):
    """Calls a function; returns the bytes that its new tensors, its autograd graph's among them, took at their peak."""
    with _LiveStorages() as storages:
        function()
    return storages.peak
