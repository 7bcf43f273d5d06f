# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate verify`: check an emitted tree against a torch_npu wheel."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from migrator.cli import common, on_device
from migrator.cli.common import UserError
from migrator.cli.cost import Counting
from migrator.files.interpreters import interpreter
from migrator.messages.escaping import terminal
from migrator.messages.github import within_repository
from migrator.messages.wording import counted
from migrator.verify.imports import Environment
from migrator.verify.report import Report, annotated, as_json, as_text
from migrator.verify.run import Options, verify

if TYPE_CHECKING:
    from migrator.verify.simulate.environment import Launcher
    from migrator.verify.simulate.report import Report as Simulated


@click.command(name="verify")
@click.argument("tree", type=click.Path(path_type=Path))
@click.option(
    "--torch-npu",
    metavar="VERSION",
    help="torch_npu release to bind calls to [default: the newest for the tree's torch pin].",
)
@click.option(
    "--torch-npu-wheel",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A torch_npu wheel to read, in place of one fetched by name.",
)
@click.option(
    "--base",
    metavar="SRC",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The tree before the migration: exact lines, and a comparison for imports.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Work without a log, on files that say npu."
)
@click.option(
    "--env",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Virtual environment with torch and vLLM's requirements, to import changed modules in or "
    "to run [default of runs: the tool's own, or one that is made and kept: `env list`].",
)
@click.option(
    "--python",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Interpreter of such an environment.",
)
@click.option(
    "--launcher",
    metavar="COMMAND",
    help="Command to run that interpreter under, such as `vllm-npu-migrate simulator run --`.",
)
@click.option("--simulate", is_flag=True, help="Run tiny models through it on a simulated Ascend.")
@click.option(
    "--cost",
    is_flag=True,
    help="With --simulate: count what a step asks of the device, in place of tokens.",
)
@click.option(
    "--against",
    metavar="TREE",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With --cost: another emitted tree, whose numbers are shown beside.",
)
@click.option(
    "--budget",
    "budgets",
    metavar="STEP.QUANTITY=N",
    multiple=True,
    help="With --cost: the most that a step may take, such as decode.waits=1; more is exit code 1.",
)
@click.option(
    "--on-device",
    "device",
    is_flag=True,
    help="Without the simulator, on the NPUs of this machine: each operator beside its reference, "
    "tokens of models, tokens a second.",
)
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="With --on-device: write the report there as JSON, and as Markdown beside it.",
)
@click.option("--serve", is_flag=True, help="Ask `vllm serve` of it, on a simulated Ascend.")
@click.option(
    "--data-parallel",
    metavar="N",
    type=click.IntRange(min=1, max=8),
    default=1,
    show_default=True,
    help="Engines that --serve starts, each on an NPU of its own, with a model's experts spread "
    "over them.",
)
@click.option(
    "--ray", is_flag=True, help="The engines of --data-parallel are actors of a Ray cluster."
)
@click.option("--install", is_flag=True, help="Build a wheel of it for NPUs, without CUDA.")
@click.option(
    "--refusals", is_flag=True, help="See that it refuses at start-up what an NPU does not serve."
)
@click.option(
    "--models",
    metavar="NAMES",
    help="Models to run, comma separated: llama, qwen2, qwen3, mistral, mixtral, qwen3-moe, moe "
    "(these two), qwen2-moe, glm4-moe, llama4, gemma, gemma3, minimax-m2, deepseek-v2, "
    "deepseek-v3, gpt2, llama-w8a8, llama-w8a8-static, llama-w8a8-zero, llama-modelslim, "
    "qwen3-moe-w8a8, qwen3-moe-modelslim, deepseek-v2-w8a8, deepseek-v2-modelslim, int8 (these "
    "eight), all.  "
    "[default: llama,qwen2,qwen3,moe; of --serve: llama]",
)
@click.option(
    "--modes",
    metavar="NAMES",
    help="Ways to run them, comma separated: eager, graph, mp, tp2, tp2-ep, pp2, ray-tp2, "
    "ray-pp2, tp2-graph, full-graph, tp2-full-graph, bfloat16, bfloat16-full-graph, float16, "
    "nz, no-nnal, no-nnal-installed, v2, v2-graph, v2-full-graph, v2-mp, v2-tp2, v2-pp2, "
    "v2-no-triton, connector-files, connector-pair, connector-host, v2-connector-files, "
    "v2-connector-pair, v2-connector-host. With LoRA adapters in one slot or two: lora1- or "
    "lora2- and eager, graph, full-graph, tp2, tp2-graph "
    "or tp2-full-graph; lora2-tp2-sharded. With drafts: ngram-, draft-, eagle-, eagle3- or "
    "mtp- and eager, graph, full-graph, mp, tp2 or no-nnal.  "
    "[default: eager,graph,mp,tp2]",
)
@click.option(
    "--with-vllm",
    "vllm",
    metavar="SRC",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="TREE is a plugin, for this untouched source of vLLM: compare them, or run them.",
)
@click.option(
    "--work",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the jobs and logs of the runs there.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    help="The longest that one run may take.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="How findings are written to standard output.",
)
@click.option("-q", "--quiet", is_flag=True, help="Findings only.")
@click.option("-v", "--verbose", is_flag=True, help="List what was not checked, and why.")
@common.command
def command(
    tree: Path,
    torch_npu: str | None,
    torch_npu_wheel: Path | None,
    base: Path | None,
    everything: bool,
    env: Path | None,
    python: Path | None,
    launcher: str | None,
    simulate: bool,
    cost: bool,
    against: Path | None,
    budgets: tuple[str, ...],
    device: bool,
    report: Path | None,
    serve: bool,
    data_parallel: int,
    ray: bool,
    install: bool,
    refusals: bool,
    models: str | None,
    modes: str | None,
    vllm: Path | None,
    work: Path | None,
    timeout: float,
    format_: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Check an emitted TREE with what can be known without running it, or by running it.

    Names and attributes that the migration introduced resolve, calls of torch_npu bind to the
    operator schemas of a torch_npu wheel (which is only read), files compile without new warnings,
    and the tree imports with and without torch_npu.

    With --simulate and --serve, tiny random models run through the tree in an environment with
    torch, torch_npu and transformers (--env), on the simulated Ascend, and their greedy tokens
    are compared with those of transformers on the CPU in float32. --install builds a wheel there;
    --refusals starts engines that an NPU cannot serve, and wants a clear error of each.
    --on-device runs without the simulator, on real NPUs, and writes a report that can be sent.

    With --with-vllm, TREE is what `apply --layout plugin` wrote. Without a kind of run, its patches
    are compared with that vLLM, as the plugin does when it is asked for a platform.

    Exit code 0: nothing found; 1: findings; 2: the check could not be made.
    """
    if env and python:
        raise UserError("--env and --python exclude each other; give one of them")
    kinds = (install, refusals, simulate, serve)
    if data_parallel > 1 and not serve:
        raise UserError("--data-parallel goes with --serve")
    if ray and data_parallel == 1:
        raise UserError("--ray goes with --data-parallel; workers over Ray are --modes ray-tp2")
    if cost and kinds != (False, False, True, False):
        raise UserError("--cost goes with --simulate, and with no other kind of run")
    if cost and models:
        raise UserError("--cost has a model of its own; leave --models out")
    if (against or budgets) and not cost:
        raise UserError("--against and --budget go with --simulate --cost")
    if report is not None and not device:
        raise UserError("--report goes with --on-device")
    if device and (any(kinds) or cost or vllm is not None):
        raise UserError(
            "--on-device is a kind of run of its own: leave --simulate, --serve, --install, "
            "--refusals, --cost and --with-vllm out"
        )
    if device and env is None and python is None:
        raise UserError(
            "--on-device needs --env: an environment with the torch_npu of the machine's CANN"
        )
    if any(kinds) or device:
        if torch_npu or torch_npu_wheel or base or everything or launcher:
            given = "--torch-npu, --torch-npu-wheel, --base, --all and --launcher"
            raise UserError(f"{given} are for the checks that run nothing; leave them out")
        if device:
            with _status(quiet) as tell:
                on_device.run(
                    tree,
                    env or python,
                    _names(models),
                    _names(modes),
                    work,
                    timeout,
                    report,
                    format_,
                    tell,
                )
        if vllm is not None and install:
            raise UserError(
                "--install builds a tree, and TREE is a plugin here; leave --install out"
            )
        _run(
            tree,
            vllm,
            env or python,
            kinds,
            data_parallel,
            ray,
            models,
            modes,
            work,
            timeout,
            format_,
            quiet=quiet,
            counting=Counting(against, budgets, verbose) if cost else None,
        )
    if models or modes or work:
        raise UserError("--models, --modes and --work go with --simulate or --serve")
    if vllm is not None:
        _fit(tree, vllm, format_, quiet=quiet)
    if torch_npu and torch_npu_wheel:
        raise UserError("--torch-npu and --torch-npu-wheel exclude each other; give one of them")
    options = Options(
        tree=tree,
        torch_npu=torch_npu,
        wheel_file=torch_npu_wheel,
        base=base,
        everything=everything,
        environment=_environment(env or python, launcher),
    )
    with _status(quiet) as tell:
        found = verify(options, tell)
    _keep(tree, found)
    write(found, tree, format_, quiet=quiet, verbose=verbose)
    sys.exit(1 if found.findings else 0)


@contextlib.contextmanager
def _status(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Takes, in a few words, what begins, and shows it where stderr is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    with common.stderr_console().status("") as status:
        yield status.update


def _environment(env: Path | None, launcher: str | None) -> Environment | None:
    if env is None:
        if launcher:
            raise UserError("--launcher runs an interpreter; name it with --env or --python")
        return None
    return Environment(interpreter(env), tuple(shlex.split(launcher or "")))


# Whatever PYTHONPATH and the current directory are where the runs begin: this very code.
_OURSELVES = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r}); "
    "from migrator.cli import main; main()"
)


def _fit(plugin: Path, vllm: Path, format_: str, *, quiet: bool) -> NoReturn:
    """Say whether a plugin fits a vLLM, and exit as that says."""
    from migrator.plugin import check

    if format_ == "github":
        raise UserError("--format github marks lines of files; here are none: take text or json")
    patches, misfits = check(plugin, vllm)
    if format_ == "json":
        from migrator.cli.schemas import PluginFit
        from migrator.reports.log import pretty_json

        click.echo(pretty_json(PluginFit(patches, list(misfits))), nl=False)
    else:
        for line in misfits:
            click.echo(terminal(line))
    if not quiet:
        said = f"{len(misfits)} do not fit" if misfits else "all fit"
        click.echo(
            f"{patches} patch{'' if patches == 1 else 'es'}; {said} the vLLM in {vllm}", err=True
        )
    sys.exit(1 if misfits else 0)


def _run(
    tree: Path,
    vllm: Path | None,
    env: Path | None,
    kinds: tuple[bool, bool, bool, bool],
    data_parallel: int,
    ray: bool,
    models: str | None,
    modes: str | None,
    work: Path | None,
    timeout: float,
    format_: str,
    *,
    quiet: bool,
    counting: Counting | None,
) -> NoReturn:
    """Run the tree on the simulated Ascend and exit as the outcome says."""
    from rich.console import Console

    from migrator.verify import simulate

    if format_ == "github":
        raise UserError("--format github marks lines of files; runs have none: take text or json")
    reports = []
    default_modes = simulate.DEFAULT_MODES if counting is None else simulate.COST_MODES

    def said(sentence: str) -> None:
        if not quiet:
            click.echo(terminal(sentence), err=True)

    try:
        chosen = simulate.select_models(_names(models))
        ways = simulate.select_modes(_names(modes) or default_modes)
    except ValueError as error:
        raise UserError(str(error)) from error
    with common.runs():
        over_ray = ray or any(mode.ray for mode in ways)
        python = environment_for(vllm or tree, env, said, ray=over_ray)
        launcher = launcher_of(python)
        with _status(quiet) as tell:
            if counting is not None:
                options = simulate.Options(
                    tree, launcher, (), ways, work=work, timeout=timeout, vllm=vllm
                )
                counting.run(options, format_, tell)
            for wanted, run, default in (
                (kinds[0], simulate.install, ("llama",)),
                (kinds[1], simulate.refusals, ("llama",)),
                (kinds[2], simulate.simulate, simulate.DEFAULT_MODELS),
                (kinds[3], simulate.serve, ("llama",)),
            ):
                if wanted:
                    options = simulate.Options(
                        tree=tree,
                        vllm=vllm,
                        launcher=launcher,
                        models=chosen or simulate.select_models(default),
                        modes=ways,
                        work=work,
                        timeout=timeout,
                        data_parallel=data_parallel,
                        ray=ray,
                    )
                    reports.append(run(options, tell))
    report = simulate.merge(reports)
    if vllm is None:
        _keep(tree, report)
    if format_ == "json":
        click.echo(simulate.as_json(report))
    else:
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
        simulate.write_table(report, Console(highlight=False, width=width))
    if report.missing and not quiet:
        click.echo(
            f"not installed, though the tree asks for it: {', '.join(report.missing)}", err=True
        )
    sys.exit(0 if report.passed else 1)


def environment_for(
    tree: Path, env: Path | None, say: Callable[[str], None], *, ray: bool = False
) -> Path:
    """The interpreter that runs a tree: of `env`, else our own, else of one made for the tree.

    Args:
        tree: what is run.
        env: an environment or an interpreter that the user named.
        say: called with a sentence on each step of making one.
        ray: does it run over Ray?
    """
    from migrator.verify.simulate import environments

    own = interpreter(env)
    if env is not None or environments.usable(own):
        return own
    return interpreter(environments.ready(tree, say, ray=ray))


def launcher_of(python: Path) -> Launcher:
    """How an interpreter's programs are started on the simulated machine."""
    from migrator.verify import simulate

    # The simulator finds torch_npu in the environment that the interpreter belongs to.
    machine = (sys.executable, "-c", _OURSELVES, "simulator", "run", "--env", str(python))
    return simulate.Launcher(machine, python)


def _keep(tree: Path, report: Report | Simulated) -> None:
    """Keep what was found, for the review page of the same tree."""
    from migrator.files.tree import DiskTree
    from migrator.review import evidence

    key = evidence.key_of_adapted(DiskTree(tree)) if tree.is_dir() else None
    if key is not None:
        evidence.keep(key, report)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def write(report: Report, tree: Path, format_: str, *, quiet: bool, verbose: bool) -> None:
    """Findings to standard output, everything else to standard error."""
    if format_ == "json":
        click.echo(as_json(report))
    elif format_ == "github":
        common.annotate(annotated(report.findings), within_repository(tree))
    elif text := as_text(report.findings):
        click.echo(text)
    if quiet:
        return
    if verbose:
        for note in report.notes:
            place = f"{note.path}:{note.line}: " if note.path else ""
            click.echo(terminal(f"{place}not checked: {note.message}"), err=True)
    wheel = report.torch_npu
    against = f" against torch_npu {wheel['version']} ({wheel['reason']})" if wheel else ""
    count = len(report.findings)
    click.echo(
        f"{count or 'no'} finding{'' if count == 1 else 's'} in "
        f"{counted(report.files, 'changed file')} and "
        f"{counted(report.calls, 'call')} of torch_npu{against}",
        err=True,
    )
    if report.notes and not verbose:
        verb = "was" if len(report.notes) == 1 else "were"
        left = counted(len(report.notes), "thing")
        click.echo(f"{left} {verb} not checked; -v lists them", err=True)
