# SPDX-License-Identifier: Apache-2.0
"""What the subcommands share: options, settings from pyproject.toml, errors and exit codes."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click

from migrator.messages.errors import MigrateError, UnfinishedError
from migrator.messages.escaping import terminal
from migrator.planning.garbage_collection import without_collector

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.console import Console

    from migrator.codemod.rule import Rule
    from migrator.files.sources import Source
    from migrator.files.tree import DiskTree, Tree
    from migrator.messages.github import Annotation
    from migrator.messages.wording import Tense
    from migrator.planning.cache import Cache, Output
    from migrator.planning.plan import Plan

DONE, PENDING, ERROR, UNFINISHED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: nothing left, changes or sites left, an error, one after files were written, and an
interrupt."""

PLAIN_WIDTH = 160
"""Columns of tables that go to no terminal."""

NO_CACHE = "VLLM_NPU_MIGRATE_NO_CACHE"
"""Variable that stands for `--no-cache`, and the key of both in a click context."""

FORMATS = ("text", "json", "github", "sarif")

F = TypeVar("F", bound=Callable[..., Any])


class UserError(click.ClickException):
    """An error that is shown as one line, with exit code 2; or as some, each an argument."""

    exit_code = ERROR

    def __init__(self, *lines: str) -> None:
        super().__init__("\n       ".join(terminal(line) for line in lines))


class _WrittenError(UserError):
    """One that came after something was written."""

    exit_code = UNFINISHED


def system_error(error: OSError) -> UserError:
    """What the system refuses as one line: a full disk, a loop of links, a file nobody may read."""
    for stream in (sys.stdout, sys.stderr):
        _let_go_of(stream)
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return UserError(f"the output cannot be written: {reason}; write it to somewhere else")
    name = os.fsdecode(error.filename) if not isinstance(error.filename, int) else "a file"
    return UserError(f"{name}: {reason}; mend that, or take another place")


def _let_go_of(stream: TextIO) -> None:
    """Keep what a stream does not take from being tried once more, loudly, when Python ends."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def open_standard_streams() -> None:
    """Have all three, also where the caller closed some: no other file may take their numbers.

    What is written to a stdout that was closed fails as on a full disk; what goes to stderr then
    is for nobody.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def command(function: F) -> F:
    """Turn `MigrateError` into one line on stderr and exit code 2, and an interrupt into 130.

    What the system refuses is such an error; after something was written it is exit code 3. Any
    other exception is a bug: exit code 2, with its traceback.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            # It covers what a subcommand imports too, which is a fifth of a short one's time.
            with without_collector():
                return function(*args, **kwargs)
        except UnfinishedError as error:
            raise _WrittenError(*error.args) from error
        except MigrateError as error:
            raise UserError(*error.args) from error
        except (KeyboardInterrupt, click.Abort):
            click.echo("Interrupted; nothing was left half written.", err=True)
            sys.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except OSError as error:
            raise system_error(error) from error
        except Exception:
            # Python's own exit code for this is 1, which says that changes are pending.
            import traceback

            traceback.print_exc()
            click.echo("This is a bug of vllm-npu-migrate; please report it.", err=True)
            sys.exit(ERROR)

    return wrapper  # type: ignore[return-value]


def stderr_console() -> Console:
    """A console on stderr; it honours NO_COLOR and draws progress on a terminal only."""
    from rich.console import Console

    width = None if sys.stderr.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(stderr=True, highlight=False, width=width)


def _codes(_: click.Context, __: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    return tuple(code.strip() for text in value for code in text.split(",") if code.strip())


def _no_cache(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[NO_CACHE] = value


def _release(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    from migrator.files.tree import released

    found = released(value.removeprefix("vllm==")) if value is not None else None
    if value is not None and found is None:
        raise click.BadParameter(f"{value} is no release; it takes one such as 0.33.0")
    return found


@dataclass(frozen=True, slots=True)
class Planning:
    """What the options of a subcommand that makes a plan were."""

    select: tuple[str, ...]
    ignore: tuple[str, ...]
    jobs: int | None
    quiet: bool
    verbose: bool
    release: str | None = None


def planning_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every subcommand that makes a plan; the function gets them as `planning`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        given = {option.name: kwargs.pop(option.name) for option in fields(Planning)}
        return function(*args, planning=Planning(**given), **kwargs)

    options = [
        click.option(
            "--select",
            multiple=True,
            callback=_codes,
            shell_complete=complete_rules,
            metavar="RULES",
            help="Only these rules.",
        ),
        click.option(
            "--ignore",
            multiple=True,
            callback=_codes,
            shell_complete=complete_rules,
            metavar="RULES",
            help="Not these rules.",
        ),
        click.option(
            "--jobs",
            "-j",
            type=click.IntRange(min=1),
            default=None,
            help="Processes to use [default: one for each processor].",
        ),
        click.option(
            "--no-cache",
            is_flag=True,
            envvar=NO_CACHE,
            expose_value=False,
            callback=_no_cache,
            help="Reuse nothing of earlier runs, and keep nothing.",
        ),
        click.option("--quiet", "-q", is_flag=True, help="Print errors only."),
        click.option("--verbose", "-v", is_flag=True, help="Name every site."),
        click.option(
            "--release",
            metavar="VERSION",
            callback=_release,
            help="The release that the source is, where it does not say so itself. A label only.",
        ),
    ]
    command: Callable[..., Any] = wrapper
    for option in reversed(options):
        command = option(command)
    return command


def format_option(function: F) -> F:
    """The option `--format` of the subcommands that print for programs."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        default=None,
        help="What is printed on stdout beside the table on stderr [default: text].",
    )(function)


def format_of(given: str | None, known: Mapping[str, Any]) -> str:
    """The format to print in: what `--format` says, else the setting."""
    return given or str(known.get("format", "text"))


def settings(start: Path) -> dict[str, Any]:
    """`[tool.vllm-npu-migrate]` of the nearest pyproject.toml at or above `start`.

    Raises:
        MigrateError: the file is not TOML, or has a setting that is unknown or of a wrong type.
    """
    for directory in (start.resolve(), *start.resolve().parents):
        path = directory / "pyproject.toml"
        if not path.is_file():
            continue
        import tomllib

        try:
            table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
        except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
            raise MigrateError(
                f"{path} cannot be read ({error}); mend it, or run this elsewhere"
            ) from error
        if "vllm-npu-migrate" not in table:
            continue
        found = table["vllm-npu-migrate"]
        if not isinstance(found, dict):
            raise MigrateError(
                f"{path}: tool.vllm-npu-migrate is not a table; write its settings below a line "
                "[tool.vllm-npu-migrate]"
            )
        from migrator.cli.settings import TAKES, wrong

        key = wrong(found)
        if key is not None:
            known = ", ".join(f"{name} ({what})" for name, what in TAKES.items())
            raise MigrateError(
                f"{path}: [tool.vllm-npu-migrate] has a wrong `{key}`; it takes {known}"
            )
        return found
    return {}


def complete_rules(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Codes of rules for a shell, each with what the rule does; the last one after a comma."""
    from click.shell_completion import CompletionItem

    from migrator.rules import all_rules

    before, comma, begun = incomplete.rpartition(",")
    return [
        CompletionItem(f"{before}{comma}{rule.code}", help=f"{rule.name}: {rule.summary}")
        for rule in all_rules()
        if rule.code.startswith(begun.upper())
    ]


def opened(text: str, known: Mapping[str, Any], planning: Planning) -> Source:
    """Open what a user named; one that is too old only by rules that were chosen by hand."""
    from migrator.api import sources

    select, _ = chosen_codes(known, planning)
    return sources.open(text, release=planning.release, too_old=bool(select))


def plan_for(
    tree: Tree,
    known: Mapping[str, Any],
    tense: Tense,
    planning: Planning,
) -> Plan:
    """Make the plan for a tree and print what it comes to, by options and the settings `known`."""
    plan = make_plan(tree, known, planning)
    tell(plan, tense, planning)
    return plan


def tell(
    plan: Plan,
    tense: Tense,
    planning: Planning,
    *,
    said: Sequence[str] = (),
    following: str | None = None,
) -> None:
    """Print what a plan comes to on stderr, unless nothing is to be said.

    Args:
        plan: the plan.
        tense: what its changes are called.
        planning: options.
        said: lines on what was written.
        following: command to run next; it is not offered where the plan has a site missing.
    """
    if not planning.quiet:
        from migrator.reports.render import print_report

        following = None if plan.missing else following
        console = stderr_console()
        print_report(console, plan, tense, verbose=planning.verbose, said=said, following=following)


def command_line(*words: str | Path) -> str:
    """A command of this tool as a shell takes it."""
    import shlex

    return shlex.join(["vllm-npu-migrate", *map(str, words)])


def _tell_unfinished(tree: Tree) -> None:
    """Say so where a run that was killed left a tree half written."""
    from migrator.files.tree import STAGING, DiskTree

    if not isinstance(tree, DiskTree) or not (tree.root / STAGING).exists():
        return
    from migrator.files.writer import unfinished

    if unfinished(tree.root):
        name = tree.root
        hint = f"apply {name} --in-place finishes it"
        said = terminal(f"{name}: an interrupted run left it half written; {hint}")
        click.echo(said, err=True)


def make_plan(
    tree: Tree,
    known: Mapping[str, Any],
    planning: Planning,
) -> Plan:
    """Take the plan of an earlier run, or make it, with a progress bar if stderr is a terminal."""
    from migrator.api.plans import plan

    _tell_unfinished(tree)
    select, ignore = chosen_codes(known, planning)
    with _progress(planning.quiet) as progress:
        return plan(
            tree,
            select=select,
            ignore=ignore,
            jobs=processes(planning, known),
            cache=plan_cache(known) or False,
            release=planning.release,
            progress=progress,
        )


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """What draws a bar on stderr, where that is a terminal; it comes with the first file."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with contextlib.ExitStack() as stack:
        drawn: list[Callable[[int, int], None]] = []

        def progress(done: int, total: int) -> None:
            if not drawn:
                from rich.progress import Progress

                # It is drawn after each file, not by a thread: processes are forked meanwhile.
                bar = Progress(console=stderr_console(), transient=True, auto_refresh=False)
                stack.enter_context(bar)
                task = bar.add_task("planning", total=None)
                drawn.append(lambda d, t: bar.update(task, completed=d, total=t, refresh=True))
            drawn[0](done, total)

        yield progress


def plan_cache(known: Mapping[str, Any]) -> Cache | None:
    """The cache of plans for this run of a subcommand; None where the user wants none."""
    context = click.get_current_context(silent=True)
    if context is None or context.meta.get(NO_CACHE) or not known.get("cache", True):
        return None
    from migrator.planning.cache import Cache, cache_directory

    cache: Cache = context.meta.setdefault("migrator.cache", Cache(cache_directory()))
    return cache


def chosen_codes(
    known: Mapping[str, Any], planning: Planning
) -> tuple[Sequence[str], Sequence[str]]:
    """What is selected and what is ignored: by the options, else by the settings."""
    return planning.select or known.get("select", []), planning.ignore or known.get("ignore", [])


def _selection(known: Mapping[str, Any], planning: Planning) -> list[str]:
    from migrator.api.plans import selection

    return selection(*chosen_codes(known, planning), planning.release)


def rules_for(known: Mapping[str, Any], planning: Planning) -> list[Rule]:
    """The rules that options and settings leave.

    Raises:
        MigrateError: a code matches no rule.
    """
    from migrator.api.plans import choose_rules

    return choose_rules(*chosen_codes(known, planning))


def kept_output(
    tree: DiskTree,
    known: Mapping[str, Any],
    planning: Planning,
    name: str,
) -> Output | None:
    """What an earlier run printed for the plan of a tree, if that plan holds."""
    from migrator.files.tree import STAGING

    cache = plan_cache(known)
    if cache is None or (tree.root / STAGING).exists():
        return None
    kept = cache.find(tree, _selection(known, planning))
    return cache.output(kept, name) if kept is not None else None


def keep_output(
    tree: DiskTree,
    known: Mapping[str, Any],
    planning: Planning,
    name: str,
    output: Output,
) -> None:
    """Keep what is printed for the plan of a tree, where that plan was kept."""
    cache = plan_cache(known)
    kept = cache.find(tree, _selection(known, planning)) if cache is not None else None
    if cache is not None and kept is not None:
        cache.keep_output(kept, name, output)


def processes(planning: Planning, known: Mapping[str, Any]) -> int:
    """How many processes to use: what was asked for, else the setting, else one a processor."""
    from migrator.api.plans import processors

    return planning.jobs or known.get("jobs") or processors()


def exit_code(plan: Plan, *, pending_counts: bool) -> int:
    """The exit code that a plan calls for."""
    return PENDING if plan.left_for_a_person or (pending_counts and plan.pending) else DONE


def annotate(found: Sequence[Annotation], within: str) -> None:
    """Print annotations for GitHub, and add what it does not show to the summary of the step."""
    from migrator.messages.github import append_summary, commands

    click.echo(commands(found, within), nl=False)
    try:
        append_summary(found, within)
    except OSError as error:
        click.echo(f"The summary of the step cannot be written: {error.strerror}", err=True)


def print_plan(plan: Plan, output_format: str, tense: Tense, root: Path) -> bool:
    """Print a plan in a format for programs; False, and nothing, for `text`.

    Args:
        plan: what is told.
        output_format: the name of the format.
        tense: what its changes are called.
        root: the tree whose files are meant.
    """
    from migrator.messages.github import within_repository
    from migrator.reports.render import annotated, render

    within = within_repository(root)
    if output_format == "github":
        annotate(annotated(plan, tense), within)
        return True
    text = render(plan, output_format, tense, within)
    if text is not None:
        click.echo(text, nl=False)
    return text is not None


def finish(plan: Plan, *, pending_counts: bool) -> NoReturn:
    """Exit with the code that the plan calls for."""
    sys.exit(exit_code(plan, pending_counts=pending_counts))


@contextlib.contextmanager
def runs() -> Iterator[None]:
    """Programs are run inside, which an interrupt ends; `kill` ends them as an interrupt does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted; all processes of the runs were ended.", err=True)
        sys.exit(INTERRUPTED)
