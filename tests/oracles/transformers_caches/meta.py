"""Answers to the questions that a forward pass asks about the data of meta tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

SCALARS = {
    torch.Tensor.__bool__: False,
    torch.Tensor.__int__: 1,
    torch.Tensor.__index__: 1,
    torch.Tensor.__float__: 1.0,
}
NONZERO = {torch.nonzero, torch.Tensor.nonzero, torch.argwhere, torch.Tensor.argwhere}


class MetaAnswers(TorchFunctionMode):
    """Gives fixed answers where Python asks a meta tensor for its data.

    Conditions are false, numbers are 1, and `nonzero` finds nothing, so that a mixture of
    experts routes no token. `asked` holds the names of the functions that were answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, torch.Tensor) and first.device.type == "meta":
            answer = self.answer(func, first, args, kwargs)
            if answer is not None:
                self.asked.add(getattr(func, "__name__", str(func)).strip("_"))
                return answer[0]
        return func(*args, **kwargs)

    @staticmethod
    def answer(
        func: Any, tensor: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any] | None:
        """Return the answer in a tuple, or None where the function needs no data."""
        if func in SCALARS:
            return (SCALARS[func],)
        if func is torch.Tensor.item:
            return (False if tensor.dtype == torch.bool else 1,)
        if func is torch.Tensor.tolist:
            return (torch.ones(tensor.shape, dtype=tensor.dtype, device="cpu").tolist(),)
        if func in NONZERO and not kwargs.get("as_tuple"):
            return (torch.empty(0, tensor.dim(), dtype=torch.long, device="meta"),)
        if func in NONZERO or (func is torch.where and len(args) == 1):
            empty = torch.empty(0, dtype=torch.long, device="meta")
            return ((empty,) * tensor.dim(),)
        if func is torch.Tensor.__getitem__ and is_mask(args[1]):
            return (tensor.flatten(0, args[1].dim() - 1),)
        return None


def is_mask(index: Any) -> bool:
    """True if indexing with it selects elements by value."""
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool
