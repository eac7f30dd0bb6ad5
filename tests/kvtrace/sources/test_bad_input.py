"""Bad request files: one line that names file and line, the right exit code, nothing written."""

from __future__ import annotations

import gzip
import sys
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import EXIT_TRACE, EXIT_USAGE, KvtraceError
from kvtrace.requests import jsonstream
from tests.support.request_files import (
    AZURE_HEADER,
    BURSTGPT_HEADER,
    GOOD,
    bailian_line,
    good,
    lct,
    look_up,
    mooncake_line,
    read,
    sharegpt,
    weka,
    weka_request,
    write,
)

if TYPE_CHECKING:
    from pathlib import Path

AZURE = AZURE_HEADER + "2023-11-16 18:17:03.9799600,480,10\n"
BURSTGPT = BURSTGPT_HEADER + "5,ChatGPT,472,18,490,Conversation log\n"
PROMPT, ANSWER = ("human", "a" * 90), ("gpt", "b" * 90)
HUGE = 1 << 64


def burst(row: str) -> str:
    """Return a good row and another one."""
    return f"{BURSTGPT}{row}\n"


# Source, content, the error behind the file's path.
BAD: dict[str, tuple[str, str | bytes, str]] = {
    # --- mooncake
    "mooncake: JSON": ("mooncake", mooncake_line() + "{oops\n", ":2: not JSON"),
    "mooncake: depth": ("mooncake", "[" * 100_000 + "\n", ":1: not JSON"),
    "mooncake: digits": ("mooncake", f'{{"timestamp": {"9" * 5000}}}\n', ":1: not JSON"),
    "mooncake: list": ("mooncake", "[1, 2]\n", ":1: not a request"),
    "mooncake: missing": ("mooncake", "{}\n", ":1: bad timestamp: got nothing"),
    "mooncake: negative time": ("mooncake", mooncake_line(-1), ":1: bad timestamp: got -1"),
    "mooncake: no number": ("mooncake", mooncake_line("27.482"), ":1: bad timestamp: got '27.482'"),
    "mooncake: huge time": ("mooncake", mooncake_line(HUGE), ":1: bad timestamp"),
    "mooncake: infinite": ("mooncake", mooncake_line(float("inf")), ":1: bad timestamp: got inf"),
    "mooncake: true": ("mooncake", mooncake_line(True), ":1: bad timestamp: got True"),
    "mooncake: text": ("mooncake", mooncake_line("7"), ":1: bad timestamp: got '7'"),
    "mooncake: no tokens": ("mooncake", mooncake_line(0, 0), ":1: bad input_length: got 0"),
    "mooncake: huge length": ("mooncake", mooncake_line(0, 1 << 40), ":1: bad input_length"),
    "mooncake: negative output": (
        "mooncake", mooncake_line(output_length=-5), ":1: bad output_length: got -5",
    ),
    "mooncake: huge output": ("mooncake", mooncake_line(output_length=1 << 53), "bad output_len"),
    "mooncake: few ids": ("mooncake", mooncake_line(0, 1025), ":1: too few hash_ids: got 2"),
    "mooncake: ids aren't a list": ("mooncake", mooncake_line(ids={}), ":1: too few hash_ids"),
    "mooncake: big id": ("mooncake", mooncake_line(ids=[1, HUGE]), f":1: bad hash id: got {HUGE}"),
    "mooncake: negative id": ("mooncake", mooncake_line(ids=[1, -1]), ":1: bad hash id: got -1"),
    "mooncake: float id": ("mooncake", mooncake_line(ids=[1, 1.5]), ":1: bad hash id: got 1.5"),
    "mooncake: backwards": (
        "mooncake", mooncake_line(9000) + mooncake_line(8000),
        ":2: time runs backwards: got 1 s earlier than the one before; sort",
    ),
    "mooncake: units": (
        "mooncake", mooncake_line(9) + mooncake_line(10**11), ":2: time leaps: units may be mixed",
    ),
    "mooncake: hole": ("mooncake", f"{mooncake_line()}\n{mooncake_line()}", ":2: empty line betw"),
    # --- bailian
    "bailian: JSON": ("bailian", bailian_line(0)[:-9] + "\n", ":1: not JSON"),
    "bailian: no chat": ("bailian", bailian_line(None), ":1: bad chat_id: got None"),
    "bailian: parent": ("bailian", bailian_line(0, -2), ":1: bad parent_chat_id: got -2"),
    "bailian: same chat": (
        "bailian", bailian_line(3) + bailian_line(3), ":2: chat_id of an earlier line: got 3",
    ),
    "bailian: turn": ("bailian", bailian_line(0, turn=0), ":1: bad turn: got 0"),
    "bailian: time": ("bailian", bailian_line(0, -1, -0.5), ":1: bad timestamp: got -0.5"),
    "bailian: NaN": ("bailian", bailian_line(0, -1, float("nan")), ":1: bad timestamp: got nan"),
    "bailian: huge time": ("bailian", bailian_line(0, -1, 1e30), ":1: bad timestamp: got 1e+30"),
    "bailian: units": (
        "bailian", bailian_line(0) + bailian_line(1, 0, 5e6), ":2: time leaps: units may be mixed",
    ),
    "bailian: backwards": (
        "bailian", bailian_line(0, -1, 2.0) + bailian_line(1, 0, 1.5),
        ":2: time runs backwards: got 0.5 s earlier than",
    ),
    "bailian: few ids": ("bailian", bailian_line(0, hash_ids=[1, 2]), ":1: too few hash_ids"),
    "bailian: id": ("bailian", bailian_line(0, hash_ids=[1, 2, -7]), ":1: bad hash id: got -7"),
    # --- weka
    "weka: JSON": ("weka", weka([])[:-1], ": entry 1: not JSON"),
    "weka: number": ("weka", "7", ": entry 1: not a request: accepted: a JSON object"),
    "weka: no block size": ("weka", "{}", ": entry 1: bad block_size: got nothing"),
    "weka: block size 0": ("weka", weka([], block_size=0), ": entry 1: bad block_size: got 0"),
    "weka: scope": ("weka", weka([], hash_id_scope="some"), ": entry 1: bad hash_id_scope: got 's"),
    "weka: empty": ("weka", weka([]), ": entry 1: no requests"),
    "weka: requests": ("weka", weka({}), ": entry 1: no list of requests"),  # type: ignore[arg-type]
    "weka: request": ("weka", weka([3]), ": entry 1, request 1: not a request"),
    "weka: few ids": (
        "weka", weka([weka_request(tokens=192)]),
        ": entry 1, request 1: too few hash_ids: got 2; accepted: 3, one per 64 tokens of in",
    ),
    "weka: big id": (
        "weka", weka([weka_request(), weka_request(hash_ids=[1, HUGE])]),
        f": entry 1, request 2: bad hash id: got {HUGE}",
    ),
    "weka: think": ("weka", weka([weka_request(think_time=-1)]), "request 1: bad think_time"),
    "weka: agent": (
        "weka", weka([{"type": "subagent", "requests": [weka_request(t=None)]}]),
        ": entry 1, request 1, request 1: bad t: got None",
    ),
    "weka: agent without requests": (
        "weka", weka([{"type": "subagent"}]), ": entry 1, request 1: no list of requests",
    ),
    "weka: other size": (
        "weka", weka([weka_request()]) + weka([weka_request(hash_ids=[1] * 4)], block_size=32),
        ": entry 2: another block_size: got 32; accepted: 64",
    ),
    # --- sharegpt
    "sharegpt: JSON": ("sharegpt", "[{]", ": entry 1: not JSON"),
    "sharegpt: object": ("sharegpt", "{}", ": not a list"),
    "sharegpt: cut off": ("sharegpt", sharegpt([PROMPT, ANSWER])[:-1], "the array doesn't end"),
    "sharegpt: cut in an entry": ("sharegpt", sharegpt([PROMPT, ANSWER])[:-9], "the file ends"),
    "sharegpt: text behind": ("sharegpt", sharegpt([PROMPT, ANSWER]) + "x", "text behind the ar"),
    "sharegpt: comma": ("sharegpt", '[{"conversations": []}, ]', "no entry after the last comma"),
    "sharegpt: no comma": ("sharegpt", "[{} {}]", ": entry 1: not a conversation"),
    "sharegpt: entry": (
        "sharegpt", sharegpt([PROMPT, ANSWER])[:-1] + ", 5]", ": entry 2: not a conversation",
    ),
    "sharegpt: side": (
        "sharegpt", sharegpt([PROMPT, ("martian", "x")]), ": entry 1, message 2: not a message",
    ),
    "sharegpt: text": (
        "sharegpt", sharegpt([PROMPT, ("gpt", 5)]), ": entry 1, message 2: not a message",
    ),
    "sharegpt: nothing left": ("sharegpt", sharegpt([PROMPT]), ": no requests"),
    # --- azure
    "azure: header": ("azure", "time,tokens\n1,2\n", ":1: no column TIMESTAMP: got 'time,tokens'"),
    "azure: only a header": ("azure", AZURE_HEADER, ": no requests"),
    "azure: width": ("azure", AZURE + "2023-11-16 18:17:04,480\n", ":3: not a row of this file"),
    "azure: more": ("azure", AZURE + "2023-11-16 18:17:04,480,1,1\n", ":3: not a row of this fi"),
    "azure: commas of another row": (
        "azure", AZURE + "2023-11-16 18:17:04,480,1,1\n2023-11-16 18:17:04,480\n",
        ":3: not a row of this file",
    ),
    "azure: date": ("azure", AZURE + "16/11/2023,480,1\n", ":3: bad TIMESTAMP: got '16/11/2023'"),
    "azure: seconds": ("azure", AZURE + "1700158624,480,1\n", ":3: bad TIMESTAMP: got '17001586"),
    "azure: tokens": ("azure", AZURE + "2023-11-16 18:17:04,4.5,1\n", ":3: bad ContextTokens: got"),
    "azure: nothing": ("azure", AZURE + "2023-11-16 18:17:04,,1\n", ":3: bad ContextTokens: got"),
    "azure: negative": ("azure", AZURE + "2023-11-16 18:17:04,5,-1\n", ":3: bad GeneratedTokens"),
    "azure: huge": ("azure", AZURE + f"2023-11-16 18:17:04,{HUGE},1\n", ":3: bad ContextTokens"),
    "azure: backwards": (
        "azure", AZURE + "2023-11-16 18:17:03,5,1\n", ":3: time runs backwards: got 0.97996 s",
    ),
    "azure: another year": ("azure", AZURE + "2024-05-10 00:00:00,5,1\n", ":3: time leaps"),
    # --- burstgpt
    "burstgpt: twice": ("burstgpt", f"Timestamp,{BURSTGPT}", ":1: a column twice"),
    "burstgpt: time": ("burstgpt", burst("x,A,1,1,2,B"), ":3: bad Timestamp: got 'x'"),
    "burstgpt: infinite": ("burstgpt", burst("inf,A,1,1,2,B"), ":3: bad Timestamp: got 'inf'"),
    "burstgpt: negative": ("burstgpt", burst("-1,A,1,1,2,B"), ":3: bad Timestamp: got '-1'"),
    "burstgpt: tokens": ("burstgpt", burst("6,A,1e3,1,2,B"), ":3: bad Request tokens: got '1e3'"),
    "burstgpt: backwards": ("burstgpt", burst("4,A,1,1,2,B"), ":3: time runs backwards: got 1 s"),
    "burstgpt: units": ("burstgpt", burst("6000000,A,1,1,2,B"), ":3: time leaps: units may be mi"),
    "burstgpt: quotes": ("burstgpt", burst('6,"A,B",1,1,2,B'), ":3: not a row of this file"),
    "burstgpt: all failed": ("burstgpt", BURSTGPT_HEADER + "5,A,472,0,472,B\n", ": no requests"),
    # --- lmcache
    "lmcache: text": ("lmcache", "abc", ":1: not a frame of an .lct file"),
    "lmcache: JSON": ("lmcache", '{"type": "header"}' * 9, ":1: not a frame of an .lct file"),
    "lmcache: magic": ("lmcache", lct(header={"magic": b"XXXX"}), ":1: not an .lct file"),
    "lmcache: version": ("lmcache", lct(header={"format_version": 2}), ":1: unknown version"),
    "lmcache: cut off": ("lmcache", lct(look_up(0.5, [b"a"]))[:-3], ":2: the file ends within a"),
    "lmcache: not a map": ("lmcache", lct([1, 2]), ":2: not a record: got [1, 2]"),
    "lmcache: not msgpack": ("lmcache", lct() + b"\0\0\0\1\xc1", ":2: not msgpack"),
    "lmcache: no look-up": ("lmcache", lct(), ": no requests: accepted: calls of StorageManager"),
    "lmcache: time": ("lmcache", lct(look_up("x", [b"a"])), ":2: bad t_mono: got 'x'"),
    "lmcache: backwards": (
        "lmcache", lct(look_up(0.5, [b"a"]), look_up(0.25, [b"a"])), ":3: time runs backwards",
    ),
    "lmcache: shape": (
        "lmcache", lct(look_up(0.5, [b"a"], shapes=[[16, 2, 1024]])), ":2: unknown layout of a ch",
    ),
    "lmcache: other shape": (
        "lmcache", lct(look_up(0.5, [b"a"]), look_up(0.6, [b"a"], shapes=[[2, 32, 64, 128]])),
        ":3: another layout of chunks",
    ),
    "lmcache: no layout": ("lmcache", lct(look_up(0.5, [b"a"], shapes=[])), ":2: a look-up witho"),
}  # fmt: skip


def refusal(name: str, *paths: Path, **options: Any) -> KvtraceError:
    """Return the error that a source raises, which is one line."""
    with pytest.raises(KvtraceError) as caught:
        read(name, *paths, **options)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_bad_content(tmp_path: Path, case: str) -> None:
    """Wrong content is a bad trace, and the error says where and what."""
    name, content, message = BAD[case]
    path = write(tmp_path / "bad", content)
    error = refusal(name, path)
    assert error.exit_code == EXIT_TRACE
    assert str(error).startswith(str(path))
    assert message in str(error)


@pytest.mark.parametrize("name", GOOD)
def test_not_a_file_of_any_kind(tmp_path: Path, name: str) -> None:
    """An empty file, binary garbage and a truncated compressed file are named."""
    garbage = bytes(range(256)) * 64
    packed = gzip.compress(garbage)[:-20]
    for file, content in (("empty", b""), ("garbage", garbage), ("cut.gz", packed)):
        path = write(tmp_path / file, content)
        error = refusal(name, path)
        assert error.exit_code == EXIT_TRACE
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("name", GOOD)
def test_stray_file(tmp_path: Path, name: str) -> None:
    """A file of another kind among the inputs is named."""
    stray = write(tmp_path / "readme.md", "# Read me\n\nThis is not a trace.\n")
    error = refusal(name, good(tmp_path, name), stray)
    assert error.exit_code == EXIT_TRACE
    assert str(error).startswith(str(stray))


@pytest.mark.parametrize("name", GOOD)
def test_no_input(name: str) -> None:
    """A source of files without a file says what to give it."""
    error = refusal(name)
    assert error.exit_code == EXIT_USAGE
    assert str(error).startswith(f"source {name}: needs an input: accepted: --input FILE")


def test_speed_that_ends_nowhere(tmp_path: Path) -> None:
    """A speed by which arrivals would leave what can be counted is refused."""
    path = write(tmp_path / "a", mooncake_line(0) + mooncake_line(10**6))
    assert "arrivals end too late" in str(refusal("mooncake", path, speed=1e-12))


def test_long_strings_are_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A string that never ends isn't read beyond the limit of one value."""
    monkeypatch.setattr(jsonstream, "CHUNK_CHARACTERS", 1000)
    monkeypatch.setattr(jsonstream, "MAX_VALUE_CHARACTERS", 10_000)
    path = write(tmp_path / "a", '["' + "x" * 10**6 + '"]')
    assert "entry 1: not JSON: Unterminated string" in str(refusal("sharegpt", path))


@pytest.mark.slow
def test_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that isn't there, isn't one, or needs a package that is missing is refused."""
    path = good(tmp_path, "sharegpt")
    absent = refusal("sharegpt", path, tokenizer=str(tmp_path / "absent.json"))
    assert (absent.exit_code, "no such file" in str(absent)) == (EXIT_USAGE, True)
    wrong = refusal("sharegpt", path, tokenizer=str(path))
    assert (wrong.exit_code, "not a tokenizer" in str(wrong)) == (EXIT_TRACE, True)

    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as if it weren't installed
    missed = refusal("sharegpt", path, tokenizer=str(path))
    assert "pip install 'kvtrace[tokenizers]'" in str(missed)


def test_lmcache_without_msgpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without msgpack the source says what to install, and is listed as unavailable."""
    from kvtrace import plugins
    from kvtrace.sources import lmcache

    path = good(tmp_path, "lmcache")
    monkeypatch.setattr(lmcache, "NEEDS", "kvtrace_has_no_such_package")
    assert "pip install 'kvtrace[lmcache]'" in str(refusal("lmcache", path))
    assert plugins.unavailable(lmcache) == "needs the package kvtrace_has_no_such_package"
