"""Configuration strings that record an engine, and the command that checks them."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user wants recorded: where to, under which secret, around which storage."""

    out: Path
    secret_file: Path | None = None
    inner: dict[str, Any] | None = None

    @property
    def capture(self) -> dict[str, Any]:
        """The recorder's own parameters."""
        parameters: dict[str, Any] = {"out": str(self.out.absolute())}
        if self.secret_file is not None:
            parameters["secret_file"] = str(self.secret_file.absolute())
        return parameters


@dataclass(frozen=True, slots=True)
class Paste:
    """A text to paste; `title` names the engine's option that it replaces."""

    title: str
    text: str


def parse_inner(text: str | None) -> dict[str, Any] | None:
    """Return the storage that is recorded, as the engine configures it. Raises UsageError."""
    if text is None:
        return None
    try:
        inner = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"not JSON: {error}", where="--inner", accepted='e.g. \'{"type": "fs", ...}\''
        ) from error
    if not isinstance(inner, dict):
        raise UsageError("not a JSON object", where="--inner", got=text)
    if not isinstance(inner.get("type"), str) or not inner["type"]:
        raise UsageError(
            "its `type` is missing or no text", where="--inner", got=text,
            accepted="""e.g. '{"type": "fs", ...}'""",
        )  # fmt: skip
    return inner


def _lmcache(asked: Asked) -> list[Paste]:
    inner = asked.inner or {"type": "fs", "base_path": "/PATH/OF/YOUR/KV"}
    spec = {
        "type": "plugin",
        "module_path": "kvtrace.capture.lmcache",
        "class_name": "RecordingL2",
        "adapter_params": {"inner": inner, **asked.capture},
    }
    title = "`lmcache server`, in place of your --l2-adapter (now its `inner`)"
    return [Paste(title, f"--l2-adapter {_word(spec)}")]


def _vllm(asked: Asked) -> list[Paste]:
    inner = asked.inner or {"type": "fs", "root_dir": "/PATH/OF/YOUR/KV"}
    common = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}
    both = {
        "cpu_bytes_to_use": 8 << 30,
        "spec_name": "RecordingTieringSpec",
        "spec_module_path": "kvtrace.capture.vllm",
        "capture": asked.capture,
        "secondary_tiers": [inner],
    }
    tier = {
        "type": "RecordingTier",
        "module_path": "kvtrace.capture.vllm",
        "inner": inner,
        "capture": asked.capture,
    }
    one = {
        "cpu_bytes_to_use": 8 << 30,
        "spec_name": "TieringOffloadingSpec",
        "secondary_tiers": [tier],
    }
    return [
        Paste(
            "vLLM, the cpu tier and all tiers below it",
            f"--kv-transfer-config {_word(common | {'kv_connector_extra_config': both})}",
        ),
        Paste(
            "vLLM, one tier only",
            f"--kv-transfer-config {_word(common | {'kv_connector_extra_config': one})}",
        ),
    ]


ZERO_COPY = ("mooncake", "hf3fs", "nixl", "eic", "simm")
"""SGLang's back ends that take the zero-copy calls only, which the dynamic one must select."""


def _sglang(asked: Asked) -> list[Paste]:
    inner = dict(asked.inner or {"type": "file", "file_storage_path": "/PATH/OF/YOUR/KV"})
    name = inner.pop("type", "file")
    extra = {
        "backend_name": "kvtrace",
        "module_path": "kvtrace.capture.sglang",
        "class_name": "RecordingHiCache",
        "interface_v1": int(name in ZERO_COPY),
        "inner": name,
        "capture": asked.capture,
        **inner,
    }
    text = (
        f"--hicache-storage-backend dynamic --hicache-storage-backend-extra-config {_word(extra)}"
    )
    return [Paste("SGLang, in place of --hicache-storage-backend (now its `inner`)", text)]


def _mooncake(asked: Asked) -> list[Paste]:
    if asked.inner is not None:
        raise UsageError(
            "is of other engines: a program's own store is wrapped", where="--inner",
            accepted="lmcache, vllm, sglang",
        )  # fmt: skip
    arguments = ", ".join(f"{name}={value!r}" for name, value in asked.capture.items())
    text = (
        "from kvtrace.capture.mooncake import RecordingStore\n"
        f"store = RecordingStore(store, {arguments})"
    )
    title = "a program that uses Mooncake's store, once it is made"
    engines = "LMCache or SGLang on Mooncake: `kvtrace capture lmcache|sglang --inner`"
    return [Paste(title, text), Paste(engines, '{"type": "mooncake_store", ...}')]


ENGINES: dict[str, Callable[[Asked], list[Paste]]] = {
    "lmcache": _lmcache,
    "vllm": _vllm,
    "sglang": _sglang,
    "mooncake": _mooncake,
}


def pastes(engine: str, asked: Asked) -> list[Paste]:
    """Return what to paste for an engine. Raises UsageError for another one."""
    if engine not in ENGINES:
        raise unknown_name("engine", engine, [*ENGINES, "kv-events"], where="ENGINE")
    return ENGINES[engine](asked)


def check_of(engine: str) -> str:
    """Return the command that tells, in the engine's environment, whether its plug-in loads."""
    return f"python -c 'import kvtrace.capture.{engine}'"


def _word(value: Any) -> str:
    """Return JSON as one word of a shell."""
    return shlex.quote(json.dumps(value, separators=(",", ":")))
