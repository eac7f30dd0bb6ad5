"""`--target`: any target on a tier by its name and options, on the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kvtrace.cli.targets import target_specs
from kvtrace.errors import UsageError
from kvtrace.plugins import FOLDERS_VARIABLE
from kvtrace.trace.schema import Op, Phase, Tier
from replay import TargetSpec, targets
from replay.compare.folder import result_path
from replay.ops.contract import Fsync
from replay.targets.support.named import Named, parse_target
from tests.support.making import write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

QUICK = ("--mode", "max", "--min-window", "0s", "--arena", "16MiB", "--settle", "0s", "--json")
MINE = '''"""Memory that takes its time."""

from typing import Annotated

from kvtrace.fields import DurationNs, Option, Section
from kvtrace.trace.schema import Tier
from replay.targets.support.simulated import stall_target

TIERS = (Tier.NVME, Tier.OBJECT)


class Options(Section):
    """What it can be told."""

    delay_ns: Annotated[DurationNs, Option("Service time of each I/O.")] = 1_000_000
    label: Annotated[str, Option("Name in reports.")] = "mine"


def make(spec):
    """Return the target."""
    options = Options(**spec.options)
    target = stall_target(options.delay_ns)
    target.spec, target.title = spec, options.label
    return target
'''


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trace of reads on nvme; beside it a plug-in folder with a target, in use."""
    (tmp_path / "plugins" / "targets").mkdir(parents=True)
    (tmp_path / "plugins" / "targets" / "mine.py").write_text(MINE)
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path / "plugins"))
    rows = [(at * 1000, Op.READ, 4096, Tier.NVME, at, Phase.DECODE) for at in range(20)]
    return write_rows(tmp_path / "t.parquet", rows)


def specs(**given: object) -> tuple[TargetSpec, ...]:
    """Return the targets of some options."""
    return target_specs(given)


def test_short_forms_make_the_same_specs(tmp_path: Path) -> None:
    """`--device`, `--dir`, `--cpu`, `--gpu` and what stands beside them are `--target` in short."""
    path = tmp_path / "kv"
    file = f"nvme=file:path={path},size=8MiB,trim=yes,extent-align=64KiB,allow-destroy=S1"
    several = ",allow-signature=ext4,allow-signature=xfs"
    short = specs(
        device=path, size="8MiB", trim=True, extent_align="64KiB", allow_destroy="S1",
        allow_signature=["ext4", "xfs"], cpu="memory", gpu="cuda:1",
    )  # fmt: skip
    align = ":extent-align=64KiB"
    long = specs(
        target=[file + several, f"cpu=memory{align}", f"gpu=cuda{align},unit=cuda:1"],
    )
    assert short == long
    assert short[2] == TargetSpec(
        "file", "nvme", path, 8 << 20, 1 << 16, "S1", ("ext4", "xfs"), trim=True
    )
    short = specs(dir=path, fsync="dir")
    assert short == specs(target=[f"nvme=dir:path={path},fsync=dir"])
    assert short == (TargetSpec("dir", "nvme", path, fsync=Fsync.DIR),)
    assert [each.tiers for each in specs(target=["null"])] == [(tier,) for tier in Tier]


def test_what_stands_beside_belongs_to_its_target(tmp_path: Path) -> None:
    """`--size` and permissions are those of target file, however that was named."""
    named = f"nvme=file:path={tmp_path}/a"
    [spec] = specs(target=[named], size="4KiB", allow_destroy="S1")
    assert (spec.size_bytes, spec.allow_destroy) == (4096, "S1")
    with pytest.raises(UsageError, match="--size: given twice"):
        specs(target=[f"{named},size=1GiB"], size="4KiB")
    [spec] = specs(dir=tmp_path / "d", allow_destroy="S1")
    assert spec.allow_destroy is None


def test_values_hold_any_character() -> None:
    """A doubled comma is one; a colon and an equals sign stand for themselves."""
    assert parse_target("nvme=file:path=/a,,b:c=d,,,size=1MiB") == (
        (Tier.NVME,),
        Named("file", {"path": "/a,b:c=d,", "size": "1MiB"}),
    )
    assert parse_target("cpu+nvme=null") == ((Tier.CPU, Tier.NVME), Named("null"))
    assert parse_target("memory") == ((Tier.CPU,), Named("memory"))
    assert parse_target("file:path=a=b") == ((Tier.NVME,), Named("file", {"path": "a=b"}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nmve=null"], "--target: unknown tier: got 'nmve'"),
        (["nvme=nul"], "did you mean null"),
        (["cpu=file:path=a"], "target file can't stand for tier cpu: accepted: nvme"),
        (["nvme=null:pages=2"], "option of target null: got 'pages'; accepted: extent-align"),
        (["nvme=file:path=a,sise=1GiB"], "did you mean size?"),
        (["nvme=file:path=a,size=large"], "target file: size: not a size: got 'large'"),
        (["nvme=file:path=a,size=0"], "target file: size: Input should be greater than 0"),
        (["nvme=file:path=a,extent-align=5000"], "extent-align: not a power of two"),
        (["nvme=dir:path=a,fsync=all"], "accepted: none|file|dir"),
        (["gpu=cuda:unit=rocm"], "target cuda: unit: "),
        (["nvme=file"], "target file needs a path: accepted: path=PATH"),
        (["nvme=file:path="], "target file: path: is empty"),
        (["nvme=file:path=a,path=b"], "target file: path: is given twice"),
        (["nvme=file:/data/kv"], "target file: not key=value: got '/data/kv'"),
        (["nvme=file:path=a", "nvme=null"], "two targets for tier nvme: got --target file and"),
        (["cpu+cpu=null"], "two targets for tier cpu"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(words: list[str], message: str) -> None:
    """Target, key, what was given and what is accepted, in one line."""
    with pytest.raises(UsageError) as refused:
        specs(target=words)
    assert message in str(refused.value)


def test_a_target_of_ones_own(trace: Path, cli: Callable[..., Outcome]) -> None:
    """A file in a plug-in folder is used by its name, with an option that has an effect."""
    done = cli("replay", trace, "--target", "nvme=mine:delay=3ms,label=a,,b", *QUICK)
    assert done.code in (0, 5), done.err
    document = json.loads(done.out)
    assert [lane["title"] for lane in document["lanes"]] == ["a,b"]
    assert document["service_ns"]["p50"] >= 3_000_000
    assert document["groups"][0]["ops"] == 20


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nvme=mine:delya=3ms", "option of target mine: got 'delya'; accepted: delay, label"),
        ("nvme=mine:delay=3parsecs", "mine: delay: not a duration: got '3parsecs'; accepted: e.g."),
        ("nvme=mine:delay=0", "target mine: delay: Input should be greater than 0: got"),
        ("cpu=mine", "target mine can't stand for tier cpu: accepted: nvme, object"),
        ("nvme=broken", "this plug-in can't be loaded"),
    ],
)  # fmt: skip
def test_a_wrong_option_of_ones_own(
    trace: Path, cli: Callable[..., Outcome], target: str, message: str
) -> None:
    """Refused before anything runs, in one line."""
    (trace.parent / "plugins" / "targets" / "broken.py").write_text(
        "import nothing_of_that_name\n\n\ndef make(spec): ...\n"
    )
    refused = cli("replay", trace, "--target", target, *QUICK)
    assert (refused.code, refused.out) == (2, "")
    assert message in refused.error


def test_from_python_they_are_checked_too(trace: Path) -> None:
    """When the target is made: keys, values, tiers; `options` may be text or numbers."""
    for options in ({"delay": "3ms"}, {"delay_ns": 3_000_000}):
        made = targets.make(TargetSpec("mine", "nvme", options=options))
        assert made.spec.options == {"delay_ns": 3_000_000, "label": "mine"}
    for spec, message in (
        (TargetSpec("mine", "nvme", options={"dela": 1}), "did you mean delay"),
        (TargetSpec("mine", "cpu"), "can't stand for tier cpu"),
        (TargetSpec("memory", "nvme"), "can't stand for tier nvme"),
        (TargetSpec("null", "cpu", options={"pages": 1}), "unknown option"),
    ):
        with pytest.raises(UsageError, match=message):
            targets.make(spec)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "Options = 3",
            "mine.py: this plug-in's Options can't be used: got 3; accepted: a subclass",
        ),
        ('TIERS = ("nvme",)', "this plug-in's TIERS can't be used: got ('nvme',)"),
        ("TIERS = ()", "accepted: a tuple of kvtrace.trace.schema.Tier"),
    ],
)
def test_a_broken_declaration_is_one_line(
    trace: Path,
    cli: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    message: str,
) -> None:
    """Used, the file is refused with the reason; listed, it isn't available."""
    folder = trace.parent / f"other-{len(line)}"
    (folder / "targets").mkdir(parents=True)
    (folder / "targets" / "mine.py").write_text(f"{MINE}\n\n{line}\n")
    monkeypatch.setenv(FOLDERS_VARIABLE, str(folder))
    refused = cli("replay", trace, "--target", "nvme=mine:delay=3ms", *QUICK)
    assert (refused.code, refused.out) == (2, "")
    assert message in refused.error
    listed = json.loads(cli("list", "targets", "--json").out)["targets"]
    assert "can't be used" in next(e["available"] for e in listed if e["name"] == "mine")
    assert message in cli("list", "targets", "mine").error


def test_own_defaults_hold_from_python_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a field that `TargetSpec` has, which the plug-in gives a default of its own."""
    text = MINE.replace(
        "    label:", '    unit: str = "x:0"\n    size_bytes: int = 4096\n    label:'
    )
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "mine.py").write_text(text)
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    made = targets.make(TargetSpec("mine", "nvme"))
    assert (made.spec.unit, made.spec.size_bytes) == ("x:0", 4096)
    made = targets.make(TargetSpec("mine", "nvme", unit="x:1", size_bytes=8192))
    assert (made.spec.unit, made.spec.size_bytes) == ("x:1", 8192)
    text = text.replace("size_bytes: int", "size_bytes: Annotated[int, Field(lt=9000)]")
    text = text.replace("from kvtrace.fields", "from pydantic import Field\n\nfrom kvtrace.fields")
    (tmp_path / "targets" / "theirs.py").write_text(text)
    with pytest.raises(UsageError, match="target theirs: size: Input should be less than"):
        targets.make(TargetSpec("theirs", "nvme", size_bytes=9000))


def test_a_path_of_ones_own(trace: Path, cli: Callable[..., Outcome]) -> None:
    """A required `path` is named when it lacks, comes to the plug-in, and is kept from outputs."""
    folder = trace.parent / "plugins" / "targets"
    text = MINE.replace(
        "    delay_ns:", '    path: Annotated[Path, Option("Where.")]\n    delay_ns:'
    )
    (folder / "placed.py").write_text(
        text.replace("from typing", "from pathlib import Path\nfrom typing").replace(
            "options.label", "str(options.path)"
        )
    )
    out = trace.parent / "out.json"
    done = cli("replay", trace, "--target", f"nvme=placed:path={out}", *QUICK)
    assert done.code in (0, 5), done.err
    assert json.loads(done.out)["lanes"][0]["title"] == str(out)
    lacking = cli("replay", trace, "--target", "nvme=placed", *QUICK)
    assert "target placed needs a path: accepted: path=PATH" in lacking.error
    words = ("--target", f"nvme=placed:path={out}", "--report", out)
    assert "is an input too" in cli("replay", trace, *words, *QUICK).error


def test_an_output_is_never_a_targets_path(
    trace: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    """A path that `--target` names is an input, as that of `--device` is."""
    kv = tmp_path / "kv.json"
    for words in (("--device", kv), ("--target", f"nvme=file:path={kv}")):
        refused = cli("replay", trace, *words, "--report", kv, "--force", *QUICK)
        assert refused.code == 2
        assert "is an input too" in refused.error
    folder = ("--trials", "1", "--folder", kv)
    refused = cli("bench", "--trace", trace, *folder, "--target", f"nvme=file:path={kv}")
    assert refused.code == 2
    assert "is an input too" in refused.error


def test_a_device_is_refused_as_before(
    trace: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    """A file that isn't ours stays as it is, whichever option names it."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious" * 1_000_000)
    for words in (("--device", mine), ("--target", f"nvme=file:path={mine},allow-destroy=any")):
        refused = cli("replay", trace, *words, *QUICK)
        assert refused.code == 4, refused.err
        assert mine.read_bytes() == b"precious" * 1_000_000


@pytest.mark.slow
def test_bench_takes_it(trace: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """Each trial goes to the target; its log has the option."""
    folder = tmp_path / "b"
    options = ("--min-window", "0s", "--mode", "max", "--arena", "16MiB", "--settle", "0s")
    words = ("--trials", "1", "--folder", folder, "--target", "nvme=mine:delay=2ms", *options)
    done = cli("bench", "--trace", trace, *words)
    assert done.code in (0, 5), done.err
    result = json.loads(result_path(folder, 1, ".json").read_text())
    assert result["service_ns"]["p50"] >= 2_000_000
    words = ("--folder", tmp_path / "c", "--target", "nvme=mine", "--precondition")
    refused = cli("bench", "--trace", trace, *words)
    assert "--precondition: needs --device" in refused.error


def test_targets_are_listed_with_tiers_and_options(
    trace: Path, cli: Callable[..., Outcome]
) -> None:
    """`list targets` has the tiers, `list targets NAME` the options; nothing else has any."""
    listed = json.loads(cli("list", "targets", "--json").out)["targets"]
    tiers = {entry["name"]: entry["tiers"] for entry in listed}
    assert (tiers["mine"], tiers["memory"]) == (["nvme", "object"], ["cpu"])
    assert "nvme,object" in cli("list", "targets").out
    text = cli("list", "targets", "mine").out
    assert "delay=TIME               Service time of each I/O. [default: 1ms]" in text
    [delay, _] = json.loads(cli("list", "targets", "mine", "--json").out)["options"]
    assert (delay["name"], delay["takes"], delay["default"]) == ("delay", "TIME", "1ms")
    assert "did you mean mine" in cli("list", "targets", "mien").error
    assert "use `kvtrace model tiny-1b`" in cli("list", "models", "tiny-1b").error
