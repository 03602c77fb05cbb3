"""The command line: argument parsing and printing; each verb calls the function of its name."""

import sys

import typer

from maskgraft.cli import (
    checkpoints,
    comparing,
    data,
    demo,
    doctoring,
    exporting,
    inspecting,
    models,
    probing,
    reporting,
    translating,
)
from maskgraft.cli.show import print_findings
from maskgraft.errors import MaskgraftError

app = typer.Typer(
    name="maskgraft",
    help="Any Mask R-CNN checkpoint, alive in PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(inspecting.inspect)
app.command()(checkpoints.diagnose)
app.command()(translating.convert)
app.command()(comparing.compare)
app.command()(probing.probe)
app.command()(models.predict)
app.command()(models.evaluate)
app.command()(models.train)
app.command()(reporting.report)
app.command()(exporting.export)
app.command()(doctoring.doctor)
app.command()(demo.demo)

app.add_typer(data.app, name="data")


def main() -> None:
    """Run a verb. Exit 0: good; 1: findings that stop it; 2: bad use or unreadable input; 130: interrupted."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except MaskgraftError as error:
        if debug:
            raise
        print_findings(error.findings)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (OSError, ImportError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        print(
            f"error: maskgraft failed in a way that it should not: {type(error).__name__}: {error}\n"
            "  → run again with --debug and report what it prints",
            file=sys.stderr,
        )
        sys.exit(2)
