"""Assembles the command line and turns errors into messages and exit codes.

Verbs import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

from orchestrator.cli import (
    audit,
    benchmark,
    browse,
    bundle,
    cluster,
    data,
    doctor,
    jobs,
    leaderboard,
    max_batch,
    models,
    promote,
    report,
    resume,
    spaces,
    status,
    sweep,
    weights,
)
from orchestrator.cli.options import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USER_ERROR
from orchestrator.cli.output import accept_any_text, print_note, tell_of_escapes
from orchestrator.program import PROGRAM, program
from orchestrator.redaction import redact
from orchestrator.signals import was_interrupted
from orchestrator.terminal_text import show_controls

_COMPLETION_VARIABLE = f"_{PROGRAM.upper()}_COMPLETE"
EXIT_CODES = "Exit codes: 0 done, 1 failure, 2 the user's mistake, 130 interrupted."

VERBS: dict[str, tuple[Callable[..., Any], str]] = {
    "spaces": (spaces.spaces, "orchestrator spaces digits > my.yaml"),
    "plan": (sweep.plan, "orchestrator plan digits --trials 12 --epochs 8"),
    "sweep": (sweep.sweep, "orchestrator sweep digits --trials 12 --set method.warmup_epochs=2"),
    "status": (status.status, "orchestrator status"),
    "leaderboard": (leaderboard.leaderboard, "orchestrator leaderboard digits-0a1b2c3d --csv > leaderboard.csv"),
    "report": (report.report, "orchestrator report digits-0a1b2c3d --out report --format html,tex"),
    "resume": (resume.resume, "orchestrator resume digits-0a1b2c3d"),
    "extend": (resume.extend, "orchestrator extend digits-0a1b2c3d --trials +12"),
    "train": (sweep.train, "orchestrator train digits --method em --set optim.lr=1e-3"),
    "ablate": (sweep.ablate, "orchestrator ablate digits --seeds 3"),
    "benchmark": (benchmark.benchmark, "orchestrator benchmark digits --methods ignore,em --dry-run"),
    "promote": (promote.promote, "orchestrator promote digits-0a1b2c3d --seeds 3"),
    "evaluate": (models.evaluate, "orchestrator evaluate digits --split val"),
    "predict": (models.predict, "orchestrator predict digits photos/ --out scores.csv"),
    "audit": (audit.audit, "orchestrator audit digits-0a1b2c3d"),
    "reproduce": (audit.reproduce, "orchestrator reproduce digits-0a1b2c3d/7"),
    "replay": (audit.replay, "orchestrator replay digits-0a1b2c3d --scheduler asha --grace 4"),
    "max-batch": (max_batch.max_batch, "orchestrator max-batch digits --device cpu --limit-gib 1"),
    "browse": (browse.browse, "orchestrator browse --port 5001"),
    "bundle": (bundle.bundle, "orchestrator bundle digits-0a1b2c3d --out digits.bundle.zip"),
    "doctor": (doctor.doctor, "orchestrator doctor"),
    "jobs": (jobs.jobs, "orchestrator jobs"),
    "logs": (jobs.logs, "orchestrator logs --follow"),
    "cancel": (jobs.cancel, "orchestrator cancel"),
}

app = typer.Typer(
    name="orchestrator",
    no_args_is_help=True,
    # Without rich, whose import would double the time that --help takes.
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
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks. Can be given anywhere on the command line.")
    ] = False,
) -> None:
    """Sweep, track and promote methods of single-positive multi-label learning.

    SPACE is a shipped search space (digits, voc, coco, nuswide, cub, ...) or a YAML file. SWEEP is an id, a name (its
    latest sweep), or nothing (the latest of all). All files go to $ORCHESTRATOR_HOME, by default the current folder.
    """


# \b keeps the example on a line of its own.
for _name, (_verb, _example) in VERBS.items():
    app.command(_name, epilog=f"\b\nExample: {_example}\n{EXIT_CODES}")(_verb)

_data = typer.Typer(
    name="data",
    help="Prepare, check and look at image datasets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for _name, (_verb, _example) in data.VERBS.items():
    _data.command(_name, epilog=f"\b\nExample: {_example}\n{EXIT_CODES}")(_verb)
app.command(
    "submit",
    epilog=f"\b\nExample: orchestrator submit sweep voc --set data.store=s3://bucket/voc --storage "
    f"s3://bucket/checkpoints\n{EXIT_CODES}",
    context_settings={"allow_interspersed_args": False},  # options after VERB are the verb's
)(jobs.submit)
_cluster = typer.Typer(
    name="cluster", help="Start, show and stop a cluster.", no_args_is_help=True, rich_markup_mode=None
)
for _name, (_verb, _example) in cluster.VERBS.items():
    _cluster.command(_name, epilog=f"\b\nExample: {_example}\n{EXIT_CODES}")(_verb)
app.add_typer(_cluster, epilog=f"\b\nExample: {cluster.VERBS['up'][1]}\n{EXIT_CODES}")
app.add_typer(_data, epilog=f"\b\nExample: {data.VERBS['prepare'][1]}\n{EXIT_CODES}")
_weights = typer.Typer(
    name="weights", help="Get pretrained weights ready for model.weights.", no_args_is_help=True, rich_markup_mode=None
)


# A group of one verb would otherwise be that verb.
@_weights.callback()
def _group_weights() -> None: ...


for _name, (_verb, _example) in weights.VERBS.items():
    _weights.command(_name, epilog=f"\b\nExample: {_example}\n{EXIT_CODES}")(_verb)
app.add_typer(_weights, epilog=f"\b\nExample: {weights.VERBS['import'][1]}\n{EXIT_CODES}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit with its code; an error becomes a message, with a traceback only under ``--debug``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    accept_any_text()
    # Parsed here rather than by typer, so that --debug also works after the verb.
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries warn their developers, not our users
    try:
        # Not in standalone mode, because typer would then print errors in its own way.
        sys.exit(app(words, prog_name=_choose_name(words), standalone_mode=False, obj=words))
    except typer.TyperException as error:
        print(show_controls(redact(describe_usage(error))), file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader (`head`, say) has enough. Without this, Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
    except Exception as error:
        if debug or was_interrupted():
            raise
        code = exit_code(error)
        # Whatever raised it may repeat a URI with its key.
        print_note(redact(f"error: {_recognise_sweep(error) or describe(error, code)}"))
        sys.exit(code)
    finally:
        tell_of_escapes()


def _choose_name(words: Sequence[str]) -> str:
    """Return how to call the program; for completion its name, from which the shell's scripts are made."""
    is_completion = _COMPLETION_VARIABLE in os.environ or any(word.endswith("-completion") for word in words[:1])
    return PROGRAM if is_completion else program()


def describe_usage(error: typer.TyperException) -> str:
    """Return what to print when the words are not a command of this program; without any words, that is the help."""
    context = getattr(error, "ctx", None)
    # Errors of the parser itself have no context, and therefore no formatted message.
    message = str(getattr(error, "message", error)) if context is None else error.format_message()
    if context is not None and message == context.get_help():
        return message
    message = (_describe_value(error) or message).rstrip(".")
    command = program() if context is None else context.command_path
    return f"error: {message}{'' if message.endswith('?') else '.'} See: {command} --help"


def _describe_value(error: typer.TyperException) -> str | None:
    """Return what is wrong with the value of an option, or None if that is not the mistake."""
    from pydantic import ValidationError

    parameter = getattr(error, "param", None)
    if parameter is None or not isinstance(error.__cause__, ValidationError):
        return None
    from training.config.strict import explain

    name = next((word for word in parameter.opts if word.startswith("--")), parameter.metavar or parameter.name)
    details = error.__cause__.errors()[0]
    if details["type"] == "value_error":  # a sentence of typer's own
        return f"{name}: {details['ctx']['error']}"
    return f"{name} {explain(details)}"


def exit_code(error: Exception) -> int:
    """Return 2 for the user's mistake and 1 for a failure, such as a service that does not answer."""
    # Imported here, because --help should not wait for pydantic.
    from orchestrator.errors import UserError
    from search_spaces.reader import SpaceError
    from training.errors import ConfigError, SourceError

    mistakes = (UserError, SpaceError, ConfigError, SourceError)
    return EXIT_USER_ERROR if isinstance(error, mistakes) else EXIT_FAILURE


def describe(error: Exception, code: int) -> str:
    """Return an error's message; for errors that are not ours, also their type and how to see more."""
    # Our messages say what to do. Those of libraries need the error's type and a way to see where it was raised.
    ours = type(error).__module__.partition(".")[0] in ("orchestrator", "training", "search_spaces")
    if ours or code == EXIT_USER_ERROR:
        return str(error)
    return f"{type(error).__name__}: {error}. Run it again with --debug to see where."


def _recognise_sweep(error: Exception) -> str | None:
    """Return what to say if a sweep of this home was named where a search space is wanted."""
    from orchestrator.errors import UserError
    from orchestrator.sweep_folder.index import KIND_NOUNS, find_entry
    from search_spaces.reader import UnknownSpaceError

    if not isinstance(error, UnknownSpaceError):
        return None
    try:
        entry = find_entry(error.name)
    except UserError:  # the home is not a folder, which is not what this error is about
        return None
    if entry is None:
        return None
    return f"{error.name} is {KIND_NOUNS[entry.kind]}, not a search space. See it: orchestrator status {entry.id}"
