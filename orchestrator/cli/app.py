"""The verbs: parse, call, print. What a verb needs is imported when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

from orchestrator.cli import cluster as cli_cluster
from orchestrator.cli import data as cli_data
from orchestrator.cli import max_batch as cli_probe
from orchestrator.cli import models as cli_models
from orchestrator.cli import results as cli_results
from orchestrator.cli import resume as cli_resume
from orchestrator.cli import spaces as cli_spaces
from orchestrator.cli import sweep as cli_sweep
from orchestrator.cli import tools as cli_tools
from orchestrator.cli.options import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USER_ERROR, SubmitInstead

EXIT_CODES = "Exit codes: 0 done, 1 failure, 2 the user's mistake, 130 interrupted."

VERBS: dict[str, tuple[Callable[..., Any], str]] = {
    "spaces": (cli_spaces.spaces, "orchestrator spaces digits > my.yaml"),
    "plan": (cli_sweep.plan, "orchestrator plan digits --trials 12 --epochs 8"),
    "sweep": (cli_sweep.sweep, "orchestrator sweep digits --trials 12 --set method.warmup_epochs=2"),
    "status": (cli_results.status, "orchestrator status"),
    "leaderboard": (cli_results.leaderboard, "orchestrator leaderboard digits-0a1b2c3d --csv > leaderboard.csv"),
    "resume": (cli_resume.resume, "orchestrator resume digits-0a1b2c3d"),
    "extend": (cli_resume.extend, "orchestrator extend digits-0a1b2c3d --trials +12"),
    "train": (cli_sweep.train, "orchestrator train digits --method em --set optim.lr=1e-3"),
    "ablate": (cli_sweep.ablate, "orchestrator ablate digits --seeds 3"),
    "promote": (cli_models.promote, "orchestrator promote digits-0a1b2c3d --seeds 3"),
    "evaluate": (cli_models.evaluate, "orchestrator evaluate digits --split val"),
    "predict": (cli_models.predict, "orchestrator predict digits photos/ --out scores.csv"),
    "max-batch": (cli_probe.max_batch, "orchestrator max-batch digits --device cpu --limit-gib 1"),
    "browse": (cli_tools.browse, "orchestrator browse --port 5001"),
    "bundle": (cli_tools.bundle, "orchestrator bundle digits-0a1b2c3d --out digits.bundle.zip"),
    "doctor": (cli_tools.doctor, "orchestrator doctor"),
    "jobs": (cli_cluster.jobs, "orchestrator jobs"),
    "logs": (cli_cluster.logs, "orchestrator logs --follow"),
    "cancel": (cli_cluster.cancel, "orchestrator cancel"),
}

app = typer.Typer(
    name="orchestrator",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: it needs no rich, which doubles the time to answer, and pipes as it is.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("spml-orchestrator"))
        raise typer.Exit


@app.callback(epilog=EXIT_CODES)
def orchestrator(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from. Stands anywhere.")] = False,
) -> None:
    """Sweep, track and promote methods of single-positive multi-label learning.

    SPACE is a shipped search space (digits, voc, coco, nuswide, cub, ...) or a YAML file. SWEEP is an id, a name (its
    latest sweep), or nothing (the latest of all). Everything lies under $ORCHESTRATOR_HOME, else under the current
    folder.
    """


for _name, (_verb, _example) in VERBS.items():
    app.command(_name, epilog=f"\b\nExample: {_example}\n{EXIT_CODES}")(_verb)

_data = typer.Typer(
    name="data",
    help="Prepare the image datasets, check them, look at them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for _name, (_verb, _example) in cli_data.VERBS.items():
    _data.command(_name, epilog=f"\b\nExample: {_example}\n{EXIT_CODES}")(_verb)
app.command(
    "submit",
    epilog=f"\b\nExample: orchestrator submit sweep voc --set data.store=s3://bucket/voc --storage "
    f"s3://bucket/checkpoints\n{EXIT_CODES}",
    context_settings={"allow_interspersed_args": False},  # what follows VERB is the verb's
)(cli_cluster.submit)
_cluster = typer.Typer(
    name="cluster", help="Start a cluster, ask it, end it.", no_args_is_help=True, rich_markup_mode=None
)
for _name, (_verb, _example) in cli_cluster.VERBS.items():
    _cluster.command(_name, epilog=f"\b\nExample: {_example}\n{EXIT_CODES}")(_verb)
app.add_typer(_cluster, epilog=f"\b\nExample: {cli_cluster.VERBS['up'][1]}\n{EXIT_CODES}")
app.add_typer(_data, epilog=f"\b\nExample: {cli_data.VERBS['prepare'][1]}\n{EXIT_CODES}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit with its code; an error is its message, without a traceback unless ``--debug`` is given."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries warn their developers, not our users
    try:
        # Not on its own, so that what it finds wrong is told as all other mistakes are.
        sys.exit(_call([word for word in words if word != "--debug"]))
    except typer.TyperException as error:
        print(describe_usage(error), file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read has had enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
    except Exception as error:
        if debug:
            raise
        code = exit_code(error)
        print(f"error: {describe(error, code)}", file=sys.stderr)
        sys.exit(code)


def _call(words: list[str]) -> int | None:
    try:
        code: int | None = app(words, prog_name="orchestrator", standalone_mode=False)
    except SubmitInstead:
        code = app(cli_cluster.submitting(words), prog_name="orchestrator", standalone_mode=False)
    return code


def describe_usage(error: typer.TyperException) -> str:
    """Return what to print of words that are no command of this program; where there were no words, its help."""
    context = getattr(error, "ctx", None)
    message = str(getattr(error, "message", error)) if context is None else error.format_message()
    if context is not None and message == context.get_help():
        return message
    # What pydantic adds to it says nothing to somebody who types commands.
    message = message.partition(", unable to parse")[0].replace("Value error, ", "").rstrip(".")
    return (
        f"error: {message}{'' if message.endswith('?') else '.'} See: "
        f"{'orchestrator' if context is None else context.command_path} --help"
    )


def exit_code(error: Exception) -> int:
    """Return 2 for the user's mistake and 1 for a failure."""
    from orchestrator.errors import UserError
    from search_spaces.reader import SpaceError
    from training.errors import ConfigError

    return EXIT_USER_ERROR if isinstance(error, UserError | SpaceError | ConfigError) else EXIT_FAILURE


def describe(error: Exception, code: int) -> str:
    """Return what to print of an error: our own messages as they are, others with their type and
    where to learn more.
    """
    if code == EXIT_USER_ERROR or type(error).__module__.partition(".")[0] in (
        "orchestrator",
        "training",
        "search_spaces",
    ):
        return str(error)
    return f"{type(error).__name__}: {error}. Run it again with --debug to see where."
