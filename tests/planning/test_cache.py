# SPDX-License-Identifier: Apache-2.0
"""The cache: a plan from it is the plan that would be made, whatever happened in between."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import libcst as cst
import platformdirs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import migrator
from migrator.api.plans import choose_rules
from migrator.codemod import engine
from migrator.codemod.engine import FileResult
from migrator.codemod.rule import File, Finding, Replace, Rule, Safety, changed
from migrator.files.locations import cache_directory
from migrator.files.tree import DiskTree, Tree, digest
from migrator.planning import cache as caching
from migrator.planning import plan as planning
from migrator.planning.cache import Cache, Output
from migrator.planning.plan import Plan, make_plan
from tests.conftest import RunCli, cli_command
from tests.trees import GUARD, MINI, SELECT, copy_mini, git, snapshot

RULES = choose_rules(SELECT.split(","), [])
OPS = "vllm/_custom_ops.py"


@pytest.fixture
def no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the times of files that were written just now: the tests wait a little instead."""
    monkeypatch.setattr(caching, "RACY", 0)


def settle() -> None:
    time.sleep(0.02)  # longer than the steps of a file system's clock


def planned(directory: Path, root: Path, rules: Sequence[Rule] = RULES) -> Plan:
    """What a run of its own comes to, with the cache in `directory`."""
    cache = Cache(directory)
    codes = [rule.code for rule in rules]
    return cache.planned(DiskTree(root), codes, lambda tree: make_plan(tree, rules, results=cache))


def fresh(root: Path, rules: Sequence[Rule] = RULES) -> Plan:
    return make_plan(DiskTree(root), rules)


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files that rules were run over."""
    seen: list[str] = []
    plain = engine.migrate_file

    def noting(path: str, data: bytes, rules: Sequence[Rule], tree: Tree) -> FileResult:
        seen.append(path)
        return plain(path, data, rules, tree)

    monkeypatch.setattr(planning, "migrate_file", noting)
    return seen


# ---- a plan from the cache is the plan that would be made --------------------------------------

Edit = Callable[[Path], None]


def written(path: str, data: bytes) -> Edit:
    def edit(root: Path) -> None:
        removed(path)(root)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)

    return edit


def removed(path: str) -> Edit:
    def edit(root: Path) -> None:
        place = root / path
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    return edit


def linked(path: str, target: str) -> Edit:
    def edit(root: Path) -> None:
        removed(path)(root)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)

    return edit


def silently(path: str, old: bytes, new: bytes) -> Edit:
    """Another text of the same length, with the old time of change."""
    assert len(old) == len(new)

    def edit(root: Path) -> None:
        place = root / path
        if place.is_file() and not place.is_symlink():
            before = place.stat()
            place.write_bytes(place.read_bytes().replace(old, new))
            os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))

    return edit


def mode(path: str, bits: int) -> Edit:
    def edit(root: Path) -> None:
        if (root / path).is_file() and not (root / path).is_symlink():
            (root / path).chmod(bits)

    return edit


def applied(root: Path) -> None:
    for change in fresh(root).files:
        written(change.path, change.after)(root)


FEW = choose_rules(["NPU102", "NPU110", "NPU302"], [])

EDITS: dict[str, Edit] = {
    "nothing": lambda root: None,
    "guard": written("vllm/x.py", GUARD.format(remark="x").encode()),
    "another guard": written("vllm/x.py", GUARD.format(remark="y").encode()),
    "no guard": removed("vllm/x.py"),
    "guard in a new directory": written("vllm/new/deep/x.py", GUARD.format(remark="n").encode()),
    "an empty directory": lambda root: (root / "vllm/empty").mkdir(exist_ok=True),
    "a file in it": written("vllm/empty/x.py", GUARD.format(remark="e").encode()),
    "no directory": removed("vllm/new"),
    "a broken file": written("vllm/x.py", b"def broken(:  # x.is_cuda\n"),
    "no site": silently(OPS, b"def rms_norm", b"def rms_n0rm"),
    "the site": silently(OPS, b"def rms_n0rm", b"def rms_norm"),
    "original": written(OPS, (MINI / OPS).read_bytes()),
    "no module": removed(OPS),
    "a link": linked("vllm/x.py", "y.py"),
    "a link out": linked("vllm/out", "../.."),
    "a link in": linked("vllm/out", "v1"),
    "no link": removed("vllm/out"),
    "a release": written("PKG-INFO", b"Name: vllm\nVersion: 0.9.2\n"),
    "another release": silently("PKG-INFO", b"Version: 0.9.2", b"Version: 0.9.1"),
    "no release": removed("PKG-INFO"),
    "executable": mode(OPS, 0o755),
    "plain": mode(OPS, 0o644),
    "a summary": written("MIGRATION.md", b"mine\n"),
    "no summary": removed("MIGRATION.md"),
    "applied": applied,
}


@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(edits=st.lists(st.sampled_from(sorted(EDITS)), max_size=5), quick=st.booleans())
def test_a_plan_is_the_same_with_the_cache(
    edits: list[str],
    quick: bool,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With times that are trusted after a moment, and with the 2 s that a real run waits."""
    monkeypatch.setattr(caching, "RACY", 0 if quick else 2_000_000_000)
    place = tmp_path_factory.mktemp("cache")
    root = copy_mini(place / "mini")
    try:
        for name in ["nothing", *edits]:
            EDITS[name](root)
            settle()
            plan = fresh(root, FEW)
            for _ in range(2):
                assert planned(place / "kept", root, FEW) == plan, name
    finally:
        shutil.rmtree(place)


def test_nothing_is_handled_twice(tmp_path: Path, mini_tree: Path, handled: list[str]) -> None:
    first = planned(tmp_path / "kept", mini_tree)
    assert first.files
    assert len(handled) > 3
    handled.clear()
    assert planned(tmp_path / "kept", mini_tree) == first
    assert handled == []
    written("vllm/x.py", GUARD.format(remark="x").encode())(mini_tree)
    assert planned(tmp_path / "kept", mini_tree) == fresh(mini_tree)
    assert handled[0] == "vllm/x.py"
    handled.clear()
    other = copy_mini(tmp_path / "another" / "mini")
    assert planned(tmp_path / "kept", other) == first
    assert handled == []


@pytest.mark.usefixtures("no_race")
def test_an_untouched_tree_is_not_read(
    tmp_path: Path, mini_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle()
    first = planned(tmp_path / "kept", mini_tree)
    with monkeypatch.context() as patch:
        patch.setattr(DiskTree, "read", None)
        patch.setattr(DiskTree, "entries", None)
        kept = Cache(tmp_path / "kept").find(DiskTree(mini_tree), [rule.code for rule in RULES])
    assert kept is not None
    assert Cache(tmp_path / "kept").plan(kept, DiskTree(mini_tree)) == first
    assert Cache(tmp_path / "kept").find(DiskTree(mini_tree), ["NPU101"]) is None


def test_times_too_near_are_not_trusted(tmp_path: Path, mini_tree: Path) -> None:
    planned(tmp_path / "kept", mini_tree)
    assert list((tmp_path / "kept").glob("*.plan"))
    assert not list((tmp_path / "kept").glob("*.stamps"))


def test_one_run_over_several_trees(tmp_path: Path, mini_tree: Path) -> None:
    cache = Cache(tmp_path / "kept")
    codes = [rule.code for rule in RULES]

    def plan(root: Path) -> Plan:
        make = lambda tree: make_plan(tree, RULES, results=cache)  # noqa: E731
        return cache.planned(DiskTree(root), codes, make)

    other = copy_mini(tmp_path / "other", {"vllm/x.py": GUARD.format(remark="x").encode()})
    for _ in range(2):
        for root in (mini_tree, other):
            assert plan(root) == fresh(root)
    applied(mini_tree)
    assert plan(mini_tree) == fresh(mini_tree)


def test_failures_are_not_kept(tmp_path: Path, mini_tree: Path, handled: list[str]) -> None:
    written("vllm/x.py", b"def broken(:  # x.is_cuda\n")(mini_tree)
    plan = planned(tmp_path / "kept", mini_tree)
    assert [failure.path for failure in plan.failures] == ["vllm/x.py"]
    handled.clear()
    assert planned(tmp_path / "kept", mini_tree) == plan
    assert handled == ["vllm/x.py"]


class Probing(Rule):
    """Writes down what the rest of the tree says.

    ## What it does
    """

    code = "NPU901"
    safety = Safety.EQUIVALENT
    triggers = (r"PROBE",)

    def check(self, file: File) -> Iterator[Finding]:
        names = file.tree.parameters("vllm/other.py", "f") or ["none"]
        there = file.tree.exists("vllm/there.py")
        text = repr(f"{'-'.join(names)} {there} {file.tree.label.release}")
        for statement in file.module.body:
            assert isinstance(statement, cst.SimpleStatementLine)
            value = cst.ensure_type(statement.body[0], cst.Assign).value
            yield changed("PROBE", value, "why", Replace(value, lambda _: cst.SimpleString(text)))


def test_a_file_that_a_rule_asks_for_counts(tmp_path: Path, handled: list[str]) -> None:
    root, rules = tmp_path / "tree", [Probing()]

    def text(*edits: Edit) -> tuple[bytes, bool]:
        """What the rule writes, and whether it had to be run for that."""
        for edit in edits:
            edit(root)
        handled.clear()
        plan = planned(tmp_path / "kept", root, rules)
        ran = "vllm/a.py" in handled
        assert plan == fresh(root, rules)
        return plan.files[0].after, ran

    a = written("vllm/a.py", b"PROBE = 'x'\n")
    assert text(a) == (b"PROBE = 'none False None'\n", True)
    assert text(written("vllm/unrelated.py", b"x = 1\n")) == (b"PROBE = 'none False None'\n", False)
    other = written("vllm/other.py", b"def f(a, b): pass\n")
    assert text(other) == (b"PROBE = 'a-b False None'\n", True)
    assert text(removed("vllm/other.py")) == (b"PROBE = 'none False None'\n", True)
    assert text(other, written("vllm/there.py", b"")) == (b"PROBE = 'a-b True None'\n", True)
    assert text(removed("vllm/unrelated.py")) == (b"PROBE = 'a-b True None'\n", False)
    release = written("PKG-INFO", b"Name: vllm\nVersion: 0.9.2\n")
    assert text(release) == (b"PROBE = 'a-b True 0.9.2'\n", True)


# ---- what makes a plan besides the tree ---------------------------------------------------------


def copied(target: Path) -> Path:
    """A copy of this tool whose sources can be changed."""
    package = Path(migrator.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "simulator", "verify")
    shutil.copytree(package, target / "migrator", ignore=ignored)
    shutil.copytree(package.parent / "templates", target / "templates")
    return target


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_changed_sources_of_the_tool_count(tmp_path: Path, mini_tree: Path) -> None:
    tool = copied(tmp_path / "tool")
    environment = {**os.environ, "PYTHONPATH": str(tool), "XDG_CACHE_HOME": str(tmp_path / "home")}
    environment.pop("VLLM_NPU_MIGRATE_NO_CACHE")

    def patch(*arguments: str) -> str:
        # Below an empty directory, so that the copy is what is imported.
        command = [*cli_command("diff", "-q", "--select", SELECT, mini_tree), *arguments]
        place = tmp_path / "empty"
        place.mkdir(exist_ok=True)
        done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        return done.stdout

    first = patch()
    replaced(tool / "migrator/rules/npu110_tensor_device_guard.py", "a tensor (", "a TENSOR (")
    assert "a tensor (" in first
    assert "a TENSOR (" in patch()
    replaced(tool / "migrator/reports/MIGRATION.md.j2", "NPU migration", "NPU MIGRATION")
    for path in sorted((tool / "templates").rglob("*.py")):
        path.write_bytes(path.read_bytes() + b"# changed\n")
    third = patch()
    assert "+# changed" in third
    assert "NPU MIGRATION" in third


def test_tags_of_a_checkout_count(tmp_path: Path, mini_tree: Path, run_kept: RunCli) -> None:
    (mini_tree / "PKG-INFO").unlink()
    git(mini_tree, "init", "-q")
    git(mini_tree, "add", "-A")
    git(mini_tree, "commit", "-q", "-m", "all")
    for version in ("0.9.2", "0.11.0"):
        git(mini_tree, "tag", "-f", f"v{version}")
        for tag in git(mini_tree, "tag").split():
            if tag != f"v{version}":
                git(mini_tree, "tag", "-d", tag)
        for _ in range(2):
            done = run_kept("diff", "-q", "--select", "NPU110", mini_tree)
            assert f'"release": "{version}"' in done.text


# ---- the directory of the cache -----------------------------------------------------------------


def state(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_damaged_files_count_as_missing(
    tmp_path: Path, mini_tree: Path, handled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "RACY", 0)
    kept = tmp_path / "kept"
    settle()
    first = planned(kept, mini_tree)
    whole = state(kept)
    assert {Path(name).suffix for name in whole} == {".asked", ".file", ".plan", ".stamps"}
    for damage in (
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"\0" * len(data),
        # What says that it is whole, and is nothing that this tool has written.
        lambda data: digest(b"{}").encode() + b"\n{}",
        lambda data: digest(b"").encode() + b"\n",
        lambda data: digest(b"\xff \n\0").encode() + b"\n\xff \n\0",
    ):
        for name, data in whole.items():
            (kept / name).write_bytes(damage(data))
        handled.clear()
        assert planned(kept, mini_tree) == first
        assert handled
        assert state(kept) == whole
    for name in whole:
        (kept / name).write_bytes(b"")
        assert planned(kept, mini_tree) == first, name


def test_files_of_other_plans_count_as_missing(tmp_path: Path, mini_tree: Path) -> None:
    """A run that was killed, or one at the same time, may leave files of two plans side by side."""
    kept = tmp_path / "kept"
    before = planned(kept, mini_tree)
    old = state(kept)
    written("vllm/x.py", GUARD.format(remark="x").encode())(mini_tree)
    after = planned(kept, mini_tree)
    new = state(kept)
    assert before != after
    for name in old:
        if old[name] != new[name]:
            (kept / name).write_bytes(old[name])
            assert planned(kept, mini_tree) == after, name
            for other, data in new.items():
                (kept / other).write_bytes(data)


@pytest.mark.parametrize("bits", [0o777, 0o770, 0o720])
def test_a_directory_that_others_may_write_to_is_not_used(
    tmp_path: Path, mini_tree: Path, bits: int
) -> None:
    kept = tmp_path / "kept"
    first = planned(kept, mini_tree)
    whole = state(kept)
    kept.chmod(bits)
    written("vllm/x.py", GUARD.format(remark="x").encode())(mini_tree)
    assert planned(kept, mini_tree) != first
    assert state(kept) == whole


def test_a_directory_that_cannot_be_written(
    tmp_path: Path, mini_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fresh(mini_tree)
    (tmp_path / "file").write_bytes(b"x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert planned(place, mini_tree) == first
    assert (tmp_path / "file").read_bytes() == b"x"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert planned(tmp_path / "full", mini_tree) == first
        assert state(tmp_path / "full") == {}


def test_the_least_used_goes_first(tmp_path: Path) -> None:
    kept = Cache(tmp_path / "kept", limit=3_000)
    (tmp_path / "kept").mkdir(mode=0o700)
    for age, name in enumerate(["d.file", "c.plan", "b.file", "a.asked", "e.part", "f.part"]):
        place = tmp_path / "kept" / name
        place.write_bytes(bytes(900))
        then = time.time() - (10_000 if name == "f.part" else 100 * age)
        os.utime(place, (then, then))
    kept.trim()
    assert sorted(state(tmp_path / "kept")) == ["b.file", "c.plan", "d.file"]
    Cache(tmp_path / "kept", limit=0).trim()
    assert state(tmp_path / "kept") == {}
    Cache(tmp_path / "missing").trim()


def test_runs_at_once(tmp_path: Path, mini_tree: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "home")}
    environment.pop("VLLM_NPU_MIGRATE_NO_CACHE")
    place = tmp_path / "home/vllm-npu-migrate/plans"
    command = cli_command("diff", "-q", "--select", SELECT, mini_tree)
    runs = [
        subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    patches = {run.communicate(timeout=600)[0] for run in runs}
    assert [run.returncode for run in runs] == [1, 1, 1]
    assert len(patches) == 1
    assert not list(place.glob("*.part"))
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
    plain = subprocess.run(
        [*command, "--no-cache"], env=environment, cwd=tmp_path, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, plain.stdout, b"")
    assert patches == {plain.stdout}


# ---- the command line ---------------------------------------------------------------------------


@pytest.fixture
def run_kept(run_cli: RunCli, tmp_path: Path) -> RunCli:
    """Run the command line with a cache of the test's own."""
    home = str(tmp_path / "home")

    def run(*arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None):  # type: ignore[no-untyped-def]
        variables = {"XDG_CACHE_HOME": home, "VLLM_NPU_MIGRATE_NO_CACHE": "", **(env or {})}
        return run_cli(*arguments, cwd=cwd, env=variables)

    return run


PLANS = "home/vllm-npu-migrate/plans"


def test_every_output_is_the_same(
    tmp_path: Path, mini_tree: Path, run_kept: RunCli, handled: list[str]
) -> None:
    commands: list[list[str]] = [
        ["diff"],
        ["diff", "-q"],
        ["diff", "-v"],
        ["diff", "--stat"],
        ["diff", "--by", "rule"],
        ["check", "--format", "json"],
        ["check", "--format", "sarif"],
        ["check", "--format", "github"],
    ]
    rules = ["--select", SELECT]
    plain = [run_kept(*c, *rules, "--no-cache", mini_tree) for c in commands]
    assert not (tmp_path / PLANS).exists()
    for _ in range(2):
        assert [run_kept(*c, *rules, mini_tree) for c in commands] == plain
        handled.clear()
    assert handled == []
    for name in ("one", "two"):
        option = [] if name == "one" else ["--no-cache"]
        run_kept("apply", *rules, *option, mini_tree, "-o", tmp_path / name)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    assert run_kept("check", *rules, tmp_path / "one").code == 0
    assert run_kept("diff", "-q", *rules, tmp_path / "one").out == b""
    assert run_kept("diff", "-q", *rules, tmp_path / "one").code == 0


def test_a_kept_patch_stays_out_of_colours(
    mini_tree: Path, run_kept: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run_kept("diff", "-q", "--select", SELECT, mini_tree)
    again = run_kept("diff", "-q", "--select", SELECT, mini_tree)
    coloured = run_kept("diff", "-q", "--select", SELECT, mini_tree, env={"FORCE_COLOR": "1"})
    assert plain == again
    assert b"\x1b[" not in plain.out
    assert b"\x1b[" in coloured.out


def test_ways_to_go_without(tmp_path: Path, mini_tree: Path, run_kept: RunCli) -> None:
    arguments = ["diff", "-q", "--select", SELECT, str(mini_tree)]
    (tmp_path / "pyproject.toml").write_text("[tool.vllm-npu-migrate]\ncache = false\n")
    run_kept(*arguments)
    (tmp_path / "pyproject.toml").unlink()
    run_kept(*arguments, "--no-cache")
    run_kept(*arguments, env={"VLLM_NPU_MIGRATE_NO_CACHE": "1"})
    assert not (tmp_path / PLANS).exists()
    run_kept(*arguments)
    assert (tmp_path / PLANS).stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / PLANS).iterdir()} == {0o600}


def test_info_and_clean(tmp_path: Path, mini_tree: Path, run_kept: RunCli) -> None:
    assert (
        run_kept("cache", "info").text
        == f"{tmp_path / PLANS}: 0 plans and 0 file results, 0 bytes\n"
    )
    run_kept("diff", "-q", "--select", SELECT, mini_tree)
    fetched = tmp_path / "home/vllm-npu-migrate/sources/vllm-0/x.py"
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(b"")
    files = len(list((tmp_path / PLANS).glob("*.file")))
    assert (
        f"{tmp_path / PLANS}: 1 plan and {files} file results, " in run_kept("cache", "info").text
    )
    done = run_kept("cache", "clean")
    assert done.code == 0
    assert done.text.startswith(f"Removed 1 plan and {files} file results, ")
    assert list((tmp_path / PLANS).iterdir()) == []
    assert fetched.exists()
    assert run_kept("cache", "clean").text == "Removed 0 plans and 0 file results, 0 bytes.\n"
    assert run_kept("diff", "-q", "--select", SELECT, mini_tree).code == 1


def test_a_cache_that_cannot_be_removed(
    tmp_path: Path, mini_tree: Path, run_kept: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_kept("diff", "-q", "--select", SELECT, mini_tree)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    done = run_kept("cache", "clean")
    assert done.code == 2
    assert done.err.startswith("Error: cannot remove ")
    assert done.err.endswith(f"Permission denied; remove {tmp_path / PLANS} yourself\n")


def test_a_half_written_tree_is_told(tmp_path: Path, mini_tree: Path, run_kept: RunCli) -> None:
    """The quick way of `diff` does not pass by what the long one says."""
    run_kept("diff", "-q", "--select", SELECT, mini_tree)
    journal = mini_tree / ".vllm-npu-migrate/journal.json"
    journal.parent.mkdir()
    journal.write_text("{}")
    assert "half written" in run_kept("diff", "-q", "--select", SELECT, mini_tree).err


@pytest.mark.parametrize("home", [None, "", "relative", "/abs", "~/of mine"])
def test_where_the_cache_is(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if home is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", home)
    assert cache_directory() == platformdirs.user_cache_path("vllm-npu-migrate")


def test_the_quick_way_loads_little(tmp_path: Path, mini_tree: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "home")}
    environment.pop("VLLM_NPU_MIGRATE_NO_CACHE")
    program = (
        "import sys\nfrom migrator.cli import main\n"
        f"try: main(['diff', '-q', '--select', {SELECT!r}, {str(mini_tree)!r}])\n"
        "finally: print(sorted({'libcst', 'rich', 'msgspec', 'jinja2', 'platformdirs', 'tomllib', "
        "'subprocess', 'tarfile', 'json'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    told = []
    for _ in range(2):
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
        assert done.returncode == 1
        told.append(done.stderr.decode().strip())
    assert "libcst" in told[0]
    assert told[1] == "[]"


def test_outputs_belong_to_one_plan(tmp_path: Path, mini_tree: Path) -> None:
    planned(tmp_path / "kept", mini_tree)
    cache = Cache(tmp_path / "kept")
    kept = cache.find(DiskTree(mini_tree), [rule.code for rule in RULES])
    assert kept is not None
    assert cache.output(kept, "patch") is None
    cache.keep_output(kept, "patch", Output(1, b"a\nb\xff"))
    assert cache.output(kept, "patch") == Output(1, b"a\nb\xff")
    assert cache.output(kept._replace(plan="0" * 64), "patch") is None
