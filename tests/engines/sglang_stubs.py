"""Stand-ins for what SGLang imports for a GPU, so that its cache controller loads without one.

None of it is called by the storage back ends or by the controller's storage methods.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any, ClassVar

GPU_ONLY = ("triton", "sgl_kernel", "torchvision", "flashinfer", "deep_gemm")


class _Anything:
    """Whatever is asked of it: a decorator, a type, a number."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *arguments: Any, **_: Any) -> Any:
        return arguments[0] if arguments else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __mro_entries__(self, _: Any) -> tuple[type, ...]:
        return (_Anything,)


class _Stub(ModuleType):
    __path__: ClassVar[list[str]] = []
    __version__ = "3.0.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Anything,), {}) if name[:1].isupper() else _Anything()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in GPU_ONLY:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


def install() -> None:
    """Let imports of packages for a GPU succeed, after others took them for missing."""
    for name in ("torch.utils.flop_counter", "transformers.image_utils"):
        importlib.import_module(name)
    sys.meta_path.insert(0, _Finder())
