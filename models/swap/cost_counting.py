"""Counting on the meta device: floating-point operations and live memory of real modules without weights.

Nothing is computed and nothing allocated: a meta tensor has a shape and a type alone. What is counted is what
the code would do, with the backward pass and with gradient checkpointing where the code asks for them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

TERA = 1e12
GIGABYTE = 1e9
META = torch.device("meta")


@dataclass(frozen=True)
class Count:
    """What a piece of work costs: operations (a multiply-add is two) and the peak of bytes it holds.

    The peak is of tensors made while it ran: activations, gradients and temporaries, but not the weights and
    inputs that were there before.
    """

    flops: int
    peak_bytes: int

    def __add__(self, other: Count) -> Count:
        """Both, one after the other, with what the first holds still there."""
        return Count(self.flops + other.flops, self.peak_bytes + other.peak_bytes)

    def __sub__(self, other: Count) -> Count:
        """What this takes more than the other."""
        return Count(self.flops - other.flops, self.peak_bytes - other.peak_bytes)

    def __mul__(self, times: int) -> Count:
        """As often as that."""
        return Count(self.flops * times, self.peak_bytes * times)

    @property
    def tflop(self) -> float:
        """Operations in units of 10^12."""
        return self.flops / TERA

    @property
    def gigabytes(self) -> float:
        """Peak of live bytes in units of 10^9."""
        return self.peak_bytes / GIGABYTE


class Counter(TorchDispatchMode):
    """Add up operations by torch's own formulas, and follow every storage: bytes alive now, and their peak.

    `torch.utils.flop_counter.FlopCounterMode` counts the same operations by the same formulas, but its hooks
    on modules keep tensors alive that a backward pass would have freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, count it, and note the storages of its results."""
        options = dict(kwargs or {})
        result = func(*args, **options)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **options, out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def ignore(self, tensors: Sequence[Tensor]) -> None:
        """Count these tensors' storages as there before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known.add(storage._cdata)
            weakref.finalize(storage, self._known.discard, storage._cdata)

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attend by the fused kernel of GPUs, which never holds the matrix of scores.

    On meta, torch would take its plain formula, whose (L, L) matrices would swamp the count of memory. The
    fused backward pass computes the scores once more: five matrix products where the plain one has four. A
    torch function mode could not do this: blocks recomputed in a backward pass do not see it.
    """

    def attend(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        if attn_mask is None:
            return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        bias = torch.empty((), dtype=query.dtype, device=META).expand(*query.shape[:3], key.shape[2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True)[0]

    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


def count(work: Callable[[], object], given: Sequence[Tensor] = ()) -> Count:
    """Count one piece of work on the meta device; `given` are tensors that were there before it."""
    counter = Counter()
    counter.ignore(given)
    with fused_attention(), counter:
        work()
    return Count(counter.flops, counter.peak)


def count_module(module: nn.Module, *inputs: Any, call: Callable[..., object] | None = None) -> Count:
    """Count a module's forward pass without gradients on meta inputs; `call` replaces `module(...)`."""
    given = [*module.parameters(), *module.buffers(), *(x for x in inputs if isinstance(x, Tensor))]
    with torch.no_grad():
        return count(lambda: (call or module)(*inputs), given)


def parameter_count(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(build: Callable[[], nn.Module], dtype: torch.dtype | None = None) -> nn.Module:
    """Build a module without memory, in eval mode, its weights in `dtype`."""
    with META:
        module = build()
    return module.eval() if dtype is None else module.eval().to(dtype)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor of a shape and no content."""
    return cast(Tensor, torch.zeros(*shape, dtype=dtype, device=META))
