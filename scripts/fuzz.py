# SPDX-License-Identifier: Apache-2.0
"""Give the engine and the command line inputs that nobody wrote, and say what broke.

Kinds of input: `generated` (modules by hypothesmith through every rule, each alone and all
together), `grafted` (generated statements put into the rules' examples), `mutated` (files of real
releases), `trees` (hostile trees through apply, diff, check and apply --in-place). What has to hold
is in tests/fuzzing.py and tests/hostile.py: never a crash or a hang, never an output that does not
parse, no line changed that no record names, the same on CUDA, nothing changed by a second run,
nothing written outside of the output.

Inputs are made in slices, each by a child process from the seed and the slice's number, so that a
parser that dies takes nothing else along, and a slice can be run again alone.

    python scripts/fuzz.py --minutes 60 --seed 1 --keep DIR --json docs/trust/fuzz.json
    python scripts/fuzz.py --seed 1 --slice 17      # this one again
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tool
from tool import ROOT

sys.path.insert(0, str(ROOT))

from migrator.files.sources import fetch
from migrator.files.tree import DiskTree, Tree
from migrator.planning.plan import make_plan
from tests import fuzzing, hostile
from tests.fuzzing import Case

RELEASES = ("0.9.2", "0.11.0", "0.16.0", "0.23.0", "0.29.0", "0.33.0")
"""Whose files are mutated: they hold every variant that the rules know."""
SIZES = {"generated": 12, "grafted": 60, "mutated": 40, "trees": 3}
"""Inputs in a slice; a generated one goes through every rule, so counts many times."""
ORDER = ("mutated", "grafted", "mutated", "generated", "mutated", "trees")
"""Kinds of the slices, again and again."""
LONGEST = 60_000
"""Size in bytes up to which a real file is taken often; longer ones take seconds each."""
HANGS = 120
"""Seconds of CPU after which an input is said to hang."""


@dataclass
class Tally:
    """What came of the inputs so far."""

    inputs: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    """Of the engine or the command line."""
    changed: Counter[str] = field(default_factory=Counter)
    """Runs in which something was rewritten."""
    refused: Counter[str] = field(default_factory=Counter)
    """Runs on what is no Python, or none that LibCST takes."""
    failures: list[dict[str, Any]] = field(default_factory=list)


class Hang(BaseException):
    """The time for one input is over; no `except Exception` may swallow it."""


def _hang(*_: object) -> None:
    raise Hang


# ---- inputs ----------------------------------------------------------------------------------


def generated(rng: random.Random, count: int) -> Iterator[str]:
    """Modules by hypothesmith, from the grammar and from LibCST's nodes."""
    import hypothesmith
    import libcst as cst
    from hypothesis import HealthCheck, Phase, given, seed, settings, strategies

    found: list[str] = []
    sources = strategies.one_of(
        hypothesmith.from_grammar(),
        hypothesmith.from_node(),
        hypothesmith.from_node(node=cst.FunctionDef),
        hypothesmith.from_node(node=cst.ClassDef),
    )

    @seed(rng.getrandbits(32))
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(sources)
    def collect(source: str) -> None:
        found.append(source)

    collect()
    yield from found


def generated_cases(rng: random.Random, count: int) -> Iterator[Case]:
    for source in generated(rng, count):
        text = fuzzing.with_words(rng, source) if rng.random() < 0.7 else source
        path = rng.choice(fuzzing.paths())
        data = text.encode("utf-8", "surrogatepass")
        yield from fuzzing.alone(path, data, Tree({}), "generated")


def grafted_cases(rng: random.Random, count: int) -> Iterator[Case]:
    pieces = list(generated(rng, max(count // 6, 1)))
    for _ in range(count):
        piece = fuzzing.with_words(rng, rng.choice(pieces))
        path, data, tree = fuzzing.grafted(rng, piece)
        notes: tuple[str, ...] = ()
        if rng.random() < 0.5:
            data, notes = fuzzing.mutated(rng, data, ())
        yield Case("grafted", path, data, fuzzing.rules_for(path), tree, notes=notes)


@dataclass(frozen=True)
class Base:
    """A release whose files are mutated."""

    tree: DiskTree
    sites: dict[str, tuple[int, ...]]
    """Files in which rules find something → the lines."""
    others: tuple[str, ...]


@cache
def base(release: str) -> Base:
    """A release's tree, and where in it the rules find something."""
    tree = DiskTree(fetch(release))
    sites: dict[str, list[int]] = {}
    for record in make_plan(tree).records:
        if record.before is not None and record.path.endswith(".py"):
            lines = [record.before.line, record.before.end_line]
            sites.setdefault(record.path, []).extend(lines)
    others = tuple(
        entry.path
        for entry in tree.entries()
        if entry.link is None
        and entry.path.startswith("vllm/")
        and entry.path.endswith(".py")
        and entry.path not in sites
    )
    return Base(tree, {path: tuple(lines) for path, lines in sorted(sites.items())}, others)


def release_of(rng: random.Random) -> str:
    """The release of a slice of mutated files: the first thing that is drawn for it."""
    return rng.choice(RELEASES)


def mutated_cases(rng: random.Random, count: int) -> Iterator[Case]:
    release = release_of(rng)
    known = base(release)
    for _ in range(count):
        while True:
            path = rng.choice(tuple(known.sites) if rng.random() < 0.9 else known.others)
            data = known.tree.read(path) or b""
            if len(data) < LONGEST or rng.random() < 0.1:
                break
        near = known.sites.get(path, ())
        data, notes = fuzzing.mutated(rng, data, near)
        codes = fuzzing.rules_for(path)
        cuda = not set(notes) & {"encoding", "flip", "lone_cr", "nul"}
        yield Case("mutated", path, data, codes, known.tree, cuda, (release, *notes))
        if near and rng.random() < 0.3:
            one = rng.choice(codes)
            yield Case("mutated", path, data, (one,), known.tree, cuda, (release, *notes))


CASES: dict[str, Callable[[random.Random, int], Iterator[Case]]] = {
    "generated": generated_cases,
    "grafted": grafted_cases,
    "mutated": mutated_cases,
}


# ---- a slice ---------------------------------------------------------------------------------


def judge(case: Case) -> str | None:
    """What is wrong with an input's outcome, exceptions and hangs among it."""
    signal.setitimer(signal.ITIMER_PROF, HANGS)
    try:
        return fuzzing.broken(case)
    except Hang:
        return "it hangs"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"crash: {type(error).__name__} in {Path(place.filename).name}:{place.name}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def run_slice(seed: int, number: int, keep: Path, current: Path, send: Callable[..., None]) -> None:
    """Make and judge the inputs of one slice; `send` is told about each run."""
    kind = ORDER[number % len(ORDER)]
    rng = random.Random(f"{seed}:{number}")
    if kind == "trees":
        for nth in range(SIZES[kind]):
            with tempfile.TemporaryDirectory(prefix="fuzz-", dir=keep) as place:
                names = hostile.draw(rng)
                current.write_text(json.dumps({"kind": kind, "trees": names}), encoding="utf-8")
                runs, wrong = hostile.judge(Path(place), names, rng)
            send(kind, new=True, runs=runs, changed=runs)
            if wrong is not None:
                send(kind, failure={"what": wrong, "trees": names, "nth": nth})
        return
    last: bytes | None = None
    for case in CASES[kind](rng, SIZES[kind]):
        about = {"kind": kind, "path": case.path, "rules": case.rules, "notes": case.notes}
        current.with_suffix(".bytes").write_bytes(case.data)
        current.write_text(json.dumps(about), encoding="utf-8")
        wrong = judge(case)
        new, last = case.data != last, case.data
        result = None
        if wrong is None:
            # Cheap, since parsed modules are small; it says whether the input reached a rule.
            result = fuzzing.run(case, case.data)
        send(
            kind,
            new=new,
            changed=int(result is not None and result.after is not None),
            refused=int(result is not None and result.failure is not None),
        )
        if wrong is not None:
            small = minimise(case, wrong)
            name = hashlib.sha256(small).hexdigest()[:12]
            (keep / f"{name}.py").write_bytes(small)
            send(kind, failure={"what": wrong, "kept": f"{name}.py", **about})
            (keep / f"{name}.json").write_text(
                json.dumps({"what": wrong, "seed": seed, "slice": number, **about}, indent=1),
                encoding="utf-8",
            )


def category(wrong: str) -> str:
    """What two failures have in common that are the same but for their inputs."""
    return ":".join(wrong.split(":")[: 2 if wrong.startswith("crash") else 1])


def minimise(case: Case, wrong: str) -> bytes:
    """A smaller input that fails in the same way."""
    until = time.process_time() + 40

    def fails(data: bytes) -> bool:
        if time.process_time() > until:
            return False
        same = judge(Case(case.kind, case.path, data, case.rules, case.tree, case.cuda))
        return same is not None and category(same) == category(wrong)

    return fuzzing.smaller(case.data, fails)


def child(seed: int, number: int, keep: Path, current: Path, out: int) -> None:
    """Run a slice and write what comes of it as lines of JSON."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _hang)
    with os.fdopen(out, "w", encoding="utf-8") as pipe:

        def send(kind: str, **what: Any) -> None:
            pipe.write(json.dumps({"kind": kind, **what}) + "\n")
            pipe.flush()

        run_slice(seed, number, keep, current, send)


def slice_in_child(seed: int, number: int, keep: Path, tally: Tally) -> None:
    """Run a slice in a process of its own and count."""
    reading, writing = os.pipe()
    current = keep / f".current-{os.getpid()}.json"
    if ORDER[number % len(ORDER)] == "mutated":
        base(release_of(random.Random(f"{seed}:{number}")))  # children inherit what is known
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            child(seed, number, keep, current, writing)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="utf-8") as pipe:
            for line in pipe:
                said = json.loads(line)
                kind = said["kind"]
                if "failure" in said:
                    tally.failures.append({"slice": number, "kind": kind, **said["failure"]})
                    print(f"FAILURE {json.dumps(tally.failures[-1])}", flush=True)
                else:
                    tally.inputs[kind] += bool(said["new"])
                    tally.runs[kind] += said.get("runs", 1)
                    tally.changed[kind] += said.get("changed", 0)
                    tally.refused[kind] += said.get("refused", 0)
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    if status:
        about = json.loads(current.read_text(encoding="utf-8")) if current.exists() else {}
        code = os.waitstatus_to_exitcode(status)
        what = f"died of signal {-code}" if code < 0 else "the fuzzer itself broke"
        failure = {"slice": number, **about, "what": what}
        data = current.with_suffix(".bytes")
        if data.exists():
            failure["kept"] = f"died-{seed}-{number}.py"
            data.replace(keep / f"died-{seed}-{number}.py")
        tally.failures.append(failure)
        print(f"FAILURE {json.dumps(failure)}", flush=True)
    current.unlink(missing_ok=True)
    current.with_suffix(".bytes").unlink(missing_ok=True)


# ---- the command -----------------------------------------------------------------------------


def summary(tally: Tally, wall: float, seed: int, slices: int) -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seed": seed,
        "slices": slices,
        "commit": tool.commit(),
        "python": sys.version.split()[0],
        "wall_seconds": round(wall),
        "cpu_seconds": round(used.ru_utime + used.ru_stime),
        "kinds": {
            kind: {
                "inputs": tally.inputs[kind],
                "runs": tally.runs[kind],
                "changed": tally.changed[kind],
                "refused": tally.refused[kind],
            }
            for kind in SIZES
        },
        "failures": tally.failures,
    }


def table(result: dict[str, Any]) -> str:
    """The counts in Markdown."""
    lines = [
        "| input | inputs | runs | rewritten | no Python | failures |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    failed = Counter(failure.get("kind") for failure in result["failures"])
    for kind, n in result["kinds"].items():
        lines.append(
            f"| {kind} | {n['inputs']} | {n['runs']} | {n['changed']} | {n['refused']} "
            f"| {failed[kind]} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="wall time [default: 1]")
    parser.add_argument(
        "--seed", type=int, default=1, help="what the inputs are drawn by [default: 1]"
    )
    parser.add_argument("--slice", type=int, help="only this one, whatever --minutes says")
    parser.add_argument("--keep", type=Path, help="where reproducers go [default: a new directory]")
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    given = parser.parse_args(arguments)
    keep = given.keep or Path(tempfile.mkdtemp(prefix="vllm-npu-migrate-fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    begun = time.monotonic()
    number = given.slice or 0
    done = 0
    try:
        while True:
            slice_in_child(given.seed, number, keep, tally)
            done += 1
            number += 1
            if given.slice is not None or time.monotonic() - begun > given.minutes * 60:
                break
    except KeyboardInterrupt:
        print("interrupted; what was done so far:", file=sys.stderr)
    result = summary(tally, time.monotonic() - begun, given.seed, done)
    result["minutes"] = round(given.minutes)
    print(table(result), end="")
    print(
        f"seed {given.seed}, {done} slices, commit {result['commit']}, "
        f"{result['wall_seconds']} s wall, {result['cpu_seconds']} s CPU; reproducers: {keep}"
    )
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
