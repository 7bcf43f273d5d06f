# SPDX-License-Identifier: Apache-2.0
"""Update real vLLM releases that were edited by hand, and write docs/updates.md.

Each old release is migrated, gets the same edits by hand, and is updated to a newer one. Every edit
has to be in the result or in a named conflict; a second update has to change nothing; and there may
be no more conflicts than `git merge-file` has for the same files. The command's exit code is 1 if
any of that fails.

    python scripts/update_table.py                   # all upgrades, fetched by name
    python scripts/update_table.py 0.11.0 0.11.1     # only this one, printed and not written
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tool import ROOT, command, digest

from migrator.files.sources import fetch
from migrator.plugin.runtime.patching import first_line
from migrator.updating.lines import has_markers

TABLE = ROOT / "docs" / "updates.md"
UPGRADES = (
    ("0.10.2", "0.11.0"),
    ("0.11.0", "0.11.1"),
    ("0.11.0", "0.13.0"),
    ("0.18.0", "0.23.0"),
    ("0.28.0", "0.29.0"),
    ("0.32.0", "0.33.0"),
)

MIGRATED, TEMPLATE, UNTOUCHED = "migrated function", "template", "untouched function"
NEW, DELETED, RENAMED = "new file", "deleted file", "renamed file"
KINDS = (MIGRATED, TEMPLATE, UNTOUCHED, NEW, DELETED, RENAMED)

FUNCTIONS = (
    (MIGRATED, "first", "vllm/_custom_ops.py", "rms_norm"),
    (MIGRATED, "last", "vllm/_custom_ops.py", "fused_add_rms_norm"),
    (MIGRATED, "first", "vllm/v1/worker/gpu_worker.py", "Worker.init_device"),
    (MIGRATED, "comment", "vllm/v1/worker/gpu_worker.py", "Worker.load_model"),
    (MIGRATED, "after", "vllm/model_executor/layers/activation.py", "SiluAndMul.forward_native"),
    (MIGRATED, "last", "vllm/model_executor/layers/layernorm.py", "RMSNorm.__init__"),
    (MIGRATED, "last", "vllm/distributed/parallel_state.py", "GroupCoordinator.__init__"),
    (MIGRATED, "first", "vllm/distributed/parallel_state.py", "init_distributed_environment"),
    (MIGRATED, "last", "vllm/model_executor/layers/linear.py", "UnquantizedLinearMethod.apply"),
    (MIGRATED, "after", "vllm/platforms/__init__.py", "resolve_current_platform_cls_qualname"),
    (TEMPLATE, "last", "vllm/platforms/npu.py", "NPUPlatform.check_and_update_config"),
    (TEMPLATE, "end", "vllm/accelerator.py", ""),
    (TEMPLATE, "first", "vllm/v1/worker/npu_worker.py", "NPUWorker"),
    (UNTOUCHED, "first", "vllm/v1/core/sched/scheduler.py", "Scheduler.schedule"),
    (UNTOUCHED, "comment", "vllm/v1/core/sched/scheduler.py", "Scheduler.update_from_output"),
    (UNTOUCHED, "import", "vllm/v1/core/sched/scheduler.py", ""),
    (UNTOUCHED, "last", "vllm/engine/arg_utils.py", "EngineArgs.create_engine_config"),
    (UNTOUCHED, "first", "vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner.execute_model"),
    (UNTOUCHED, "comment", "vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner._prepare_inputs"),
    (UNTOUCHED, "import", "vllm/v1/worker/gpu_model_runner.py", ""),
    (UNTOUCHED, "last", "vllm/v1/engine/core.py", "EngineCore.__init__"),
    (UNTOUCHED, "after", "vllm/v1/engine/core.py", "EngineCore.step"),
    (UNTOUCHED, "first", "vllm/v1/sample/sampler.py", "Sampler.forward"),
    (UNTOUCHED, "first", "vllm/model_executor/models/qwen3.py", "Qwen3Attention.forward"),
    (UNTOUCHED, "last", "vllm/model_executor/models/llama.py", "LlamaAttention.forward"),
    (UNTOUCHED, "after", "vllm/v1/core/kv_cache_manager.py", "KVCacheManager.allocate_slots"),
    (UNTOUCHED, "comment", "vllm/v1/core/block_pool.py", "BlockPool.get_new_blocks"),
    (UNTOUCHED, "first", "vllm/entrypoints/llm.py", "LLM.__init__"),
    (UNTOUCHED, "last", "vllm/sampling_params.py", "SamplingParams.__post_init__"),
    (UNTOUCHED, "after", "vllm/forward_context.py", "set_forward_context"),
    (UNTOUCHED, "first", "vllm/transformers_utils/config.py", "get_config"),
)
"""Kind, where in the function the line goes, file and function. All are in each of the releases."""
DELETIONS = ("SECURITY.md", "vllm/model_executor/models/teleflm.py")
RENAMES = (
    ("vllm/model_executor/models/stablelm.py", "vllm/model_executor/models/my_stablelm.py"),
    ("vllm/model_executor/models/falcon.py", "vllm/model_executor/models/my_falcon.py"),
)


@dataclass(frozen=True)
class Edit:
    """One edit by hand, and what to look for afterwards."""

    kind: str
    path: str
    mark: str = ""
    """Text that the edit added; empty for a deleted file."""
    was: str | None = None


@dataclass
class Outcome:
    """What became of one upgrade."""

    old: str
    new: str
    upstream: int = 0
    """Files that differ between the two releases, both migrated."""
    carried: dict[str, int] = field(default_factory=dict)
    in_conflict: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    conflicts: int = 0
    git_same: int = 0
    """Conflicts of `git merge-file`, given the same three versions of each edited file."""
    git_pristine: int = 0
    """The same, given the pristine releases in place of the migrated ones."""
    problems: list[str] = field(default_factory=list)


# ---- editing -------------------------------------------------------------------------------


def edit_by_hand(tree: Path) -> list[Edit]:
    """Make the fixed set of edits in an adapted tree."""
    edits = []
    for number, (kind, where, path, name) in enumerate(FUNCTIONS):
        mark = f"by_hand_{number:02}"
        place = tree / path
        lines = place.read_text(encoding="utf-8").split("\n")
        _insert(lines, where, name, mark)
        text = "\n".join(lines)
        ast.parse(text)
        place.write_text(text, encoding="utf-8")
        edits.append(Edit(kind, path, mark))
    (tree / "vllm/v1/by_hand.py").write_text("by_hand_new = 1\n", encoding="utf-8")
    edits.append(Edit(NEW, "vllm/v1/by_hand.py", "by_hand_new"))
    for path in DELETIONS:
        (tree / path).unlink()
        edits.append(Edit(DELETED, path))
    for number, (path, name) in enumerate(RENAMES):
        mark = f"by_hand_renamed_{number}"
        text = (tree / path).read_text(encoding="utf-8")
        (tree / path).unlink()
        (tree / name).write_text(f"{text}\n\n{mark} = 1\n", encoding="utf-8")
        edits.append(Edit(RENAMED, name, mark, path))
    return edits


def _insert(lines: list[str], where: str, name: str, mark: str) -> None:
    module = ast.parse("\n".join(lines))
    if where == "end":
        lines += ["", f"{mark} = 1", ""]
        return
    if where == "import":
        last = [s for s in module.body if isinstance(s, (ast.Import, ast.ImportFrom))][-1]
        lines.insert(last.end_lineno or 0, f"import json as {mark}")
        return
    node = _definition(module, name)
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    indent = " " * body[0].col_offset
    if where == "first":
        lines.insert(first_line(body[0]) - 1, f"{indent}{mark} = 1")
    elif where == "last":
        lines.insert(first_line(body[-1]) - 1, f"{indent}{mark} = 1")
    elif where == "comment":
        simple = [s for s in body if s.lineno == s.end_lineno] or [
            s
            for s in ast.walk(node)
            if isinstance(s, ast.stmt) and s.lineno == s.end_lineno and s.col_offset > len(indent)
        ]
        chosen = simple[len(simple) // 2]
        lines[chosen.lineno - 1] += f"  # {mark}"
    elif where == "after":
        indent = " " * node.col_offset
        new = ["", f"{indent}def {mark}(*args):", f"{indent}    return args"]
        lines[node.end_lineno or 0 : node.end_lineno or 0] = new if indent else ["", *new, ""]
    else:
        raise ValueError(where)


Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definition(module: ast.Module, name: str) -> Node:
    body: list[ast.stmt] = module.body
    for part in name.split("."):
        node = next(s for s in body if isinstance(s, Node) and s.name == part)
        body = node.body
    return node


# ---- judging -------------------------------------------------------------------------------


def upgrade(old: str, new: str, scratch: Path) -> Outcome:
    """Migrate, edit, update, update again, and compare with git."""
    outcome = Outcome(old, new)
    base, theirs, ours, out = (scratch / name for name in ("base", "theirs", "ours", "out"))
    for release, target in ((old, base), (new, theirs)):
        done = command("apply", f"vllm=={release}", "-o", target, "-q")
        if done.returncode != 0:
            outcome.problems.append(f"apply exits {done.returncode}: {done.stderr[-400:]}")
            return outcome
    shutil.copytree(base, ours, symlinks=True)
    edits = edit_by_hand(ours)
    before = digest(ours)
    arguments = ("update", ours, f"vllm=={new}", "-o", out, "-q", "--format", "json")
    done = command(*arguments)
    if done.returncode == 2:
        outcome.problems.append(f"update exits 2: {done.stderr[-400:]}")
        return outcome
    if digest(ours) != before:
        outcome.problems.append("update changed its input")
    files = json.loads(done.stdout)["files"]
    conflicts = {entry["path"]: entry for entry in files if entry["fate"] == "conflict"}
    outcome.conflicts = sum(entry["conflicts"] for entry in conflicts.values())
    if (done.returncode == 1) != bool(conflicts):
        outcome.problems.append(f"exit code {done.returncode} with {len(conflicts)} conflicts")
    outcome.upstream = different(base, theirs)
    now = {entry["was"]: entry["path"] for entry in files if entry["was"]}
    for edit in edits:
        judge(edit, out, conflicts, now, outcome)
    unparsable(out, files, outcome)
    compare_with_git(edits, base, ours, theirs, now, outcome, fetch(old), fetch(new))
    if outcome.conflicts > outcome.git_same:
        outcome.problems.append(f"{outcome.conflicts} conflicts, git has {outcome.git_same}")
    second_update(out, new, conflicts, outcome)
    return outcome


def judge(
    edit: Edit, out: Path, conflicts: dict[str, object], now: dict[str, str], outcome: Outcome
) -> None:
    """Is an edit in the result, in a conflict, or lost?"""
    path = now.get(edit.path, edit.path)
    place = out / path
    if edit.kind == DELETED:
        where = "conflict" if path in conflicts else "" if place.exists() else "result"
    elif not place.exists():
        where = ""
    else:
        text = place.read_text(encoding="utf-8")
        sides = re.sub(r"(?ms)^<<<<<<< ours$.*?^>>>>>>> theirs$", "", text)
        if edit.mark in sides and (path not in conflicts or has_markers(text.encode())):
            where = "result"
        else:
            where = "conflict" if edit.mark in text and path in conflicts else ""
    if edit.was is not None and (out / edit.was).exists():
        where = ""
    if where == "":
        outcome.lost.append(f"{edit.kind} {edit.path}")
    else:
        counts = outcome.carried if where == "result" else outcome.in_conflict
        counts[edit.kind] = counts.get(edit.kind, 0) + 1


def unparsable(out: Path, files: Sequence[dict[str, str]], outcome: Outcome) -> None:
    """Files that were merged, are no conflict and are no Python."""
    for entry in files:
        place = out / entry["path"]
        if entry["fate"] == "merged" and entry["path"].endswith(".py"):
            try:
                ast.parse(place.read_bytes())
            except SyntaxError:
                outcome.problems.append(f"{entry['path']} does not parse and is no conflict")


def compare_with_git(
    edits: Sequence[Edit],
    base: Path,
    ours: Path,
    theirs: Path,
    now: dict[str, str],
    outcome: Outcome,
    old: Path,
    new: Path,
) -> None:
    """Count what `git merge-file` has for the edited files; a file without a partner is one."""
    for path in sorted({edit.path for edit in edits}):
        was = next((e.was for e in edits if e.path == path and e.was), path)
        if path in (edit.path for edit in edits if edit.kind in (DELETED, NEW)):
            # Both leave a deleted file that upstream changed to the user.
            gone = any(e.kind == DELETED and e.path == path for e in edits)
            if gone and (theirs / path).exists():
                same = (base / path).read_bytes() == (theirs / path).read_bytes()
                outcome.git_same += not same
                outcome.git_pristine += not same
            continue
        target = now.get(path, path) if was == path else was
        outcome.git_same += merge_file(ours / path, base / was, theirs / target)
        outcome.git_pristine += merge_file(ours / path, old / was, new / target)


def merge_file(ours: Path, base: Path, theirs: Path) -> int:
    if not theirs.exists():
        # A template of the tool is in no release: for git it is a file of the engineer's alone.
        return int(base.exists())
    names = [str(place if place.exists() else "/dev/null") for place in (ours, base, theirs)]
    done = subprocess.run(["git", "merge-file", "-p", *names], capture_output=True, check=False)
    return done.returncode


def second_update(
    out: Path, new: str, conflicts: dict[str, dict[str, object]], outcome: Outcome
) -> None:
    """With conflicts it is refused; with these resolved, or without any, it changes nothing."""
    arguments = ("update", out, f"vllm=={new}", "--in-place", "--force")
    marked = [path for path, entry in conflicts.items() if entry["marked"]]
    if marked:
        before = digest(out)
        done = command(*arguments)
        if done.returncode != 2 or digest(out) != before or done.stderr.count("\n") != 1:
            outcome.problems.append(f"unresolved conflicts are not refused: {done.stderr[-300:]}")
        for path in marked:
            text = (out / path).read_text(encoding="utf-8")
            sides = r"(?ms)^<<<<<<< ours\n(.*?)^=======\n.*?^>>>>>>> theirs\n"
            (out / path).write_text(re.sub(sides, r"\1", text), encoding="utf-8")
    before = digest(out)
    done = command(*arguments)
    if digest(out) != before or "Nothing to do" not in done.stderr:
        outcome.problems.append(f"a second update changes something: {done.stderr[-300:]}")


def different(one: Path, other: Path) -> int:
    def contents(root: Path) -> dict[str, bytes]:
        return {
            p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).digest()
            for p in root.rglob("*")
            if p.is_file()
        }

    a, b = contents(one), contents(other)
    return sum(a.get(path) != b.get(path) for path in a.keys() | b.keys())


# ---- writing -------------------------------------------------------------------------------


def table(outcomes: Sequence[Outcome]) -> str:
    """The document in Markdown."""
    count = len(FUNCTIONS) + 1 + len(DELETIONS) + len(RENAMES)
    lines = [
        "# Updates",
        "",
        "Made by `python scripts/update_table.py`. Each old release is migrated, gets the same",
        f"{count} edits by hand, and is updated to the newer one. An edit is in the result, or in",
        "a conflict that is named; none may be lost. A second update has to change nothing, and",
        "to refuse while a conflict is marked. Two numbers in a cell: in the result, in conflict.",
        "",
        "| | " + " | ".join(f"{o.old} → {o.new}" for o in outcomes) + " |",
        "| --- |" + " ---: |" * len(outcomes),
        _row("files that differ upstream", outcomes, lambda o: str(o.upstream)),
    ]
    lines += [_row(kind, outcomes, partial(_cell, kind)) for kind in KINDS]
    lines += [
        _row("edits lost", outcomes, lambda o: str(len(o.lost))),
        _row("**conflicts**", outcomes, lambda o: f"**{o.conflicts}**"),
        _row("`git merge-file`, same three versions", outcomes, lambda o: str(o.git_same)),
        _row("`git merge-file`, pristine releases", outcomes, lambda o: str(o.git_pristine)),
        _row("a second update", outcomes, lambda o: "; ".join(o.problems) or "changes nothing"),
        "",
        "*Conflicts* are places in files, and files where the whole is one. `git merge-file` is",
        "given the edited file, the old release's and the new one's: first as the tool migrates",
        "them, which is what `update` merges, then as they are released, which is what one has",
        "who rebases the edited tree without the tool. Renamed files are paired for git as",
        "`update` pairs them.",
    ]
    return "\n".join(lines) + "\n"


def _row(head: str, outcomes: Sequence[Outcome], cell: Callable[[Outcome], str]) -> str:
    return f"| {head} | " + " | ".join(cell(outcome) for outcome in outcomes) + " |"


def _cell(kind: str, outcome: Outcome) -> str:
    return f"{outcome.carried.get(kind, 0)}, {outcome.in_conflict.get(kind, 0)}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    help_text = "print the table of this upgrade only [default: write that of all]"
    parser.add_argument("upgrade", nargs="*", metavar="OLD NEW", help=help_text)
    upgrade_asked = parser.parse_args(arguments).upgrade
    if len(upgrade_asked) not in (0, 2):
        parser.error("an upgrade is two releases, OLD and NEW")
    asked = [tuple(upgrade_asked)] if upgrade_asked else UPGRADES
    outcomes = []
    for old, new in asked:
        with tempfile.TemporaryDirectory() as scratch:
            outcome = upgrade(old, new, Path(scratch))
        outcomes.append(outcome)
        state = "; ".join([*outcome.problems, *(f"lost: {e}" for e in outcome.lost)]) or "ok"
        print(
            f"{old} → {new}: {outcome.conflicts} conflicts, git {outcome.git_same} and "
            f"{outcome.git_pristine}: {state}",
            file=sys.stderr,
            flush=True,
        )
    text = table(outcomes)
    if upgrade_asked:
        print(text, end="")
    else:
        TABLE.write_text(text, encoding="utf-8")
        print(f"wrote {TABLE.relative_to(ROOT)}", file=sys.stderr)
    return 1 if any(outcome.problems or outcome.lost for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
