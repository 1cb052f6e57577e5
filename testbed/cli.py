"""`offramp`: the command line. Each command imports what it needs when it runs, so that `health` starts fast."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services.errors import InvalidInput, OfframpError, SettingsError
from testbed.commands import bench, certs, chaos, explain, paper, partition, places, privacy, profile, testbed_up, watch
from testbed.commands.credentials import CaOption, CertOption, KeyOption, TokenOption, asking
from testbed.commands.waiting import Interrupted, wait_for

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="One neural network over device, edge and cloud: early exits, compressed activations, a measured split.",
)

BundleArgument = Annotated[Path, typer.Argument(help="Directory of the bundle.", metavar="BUNDLE")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Directory of the data set's files.")]
SamplesOption = Annotated[
    Path | None, typer.Option("--data", help="Directory of the data set's files, or an .npz of labelled images.")
]


class DatasetName(StrEnum):
    """Data sets there are loaders for."""

    digits = "digits"
    mnist = "mnist"
    fashion_mnist = "fashion-mnist"
    cifar10 = "cifar10"


@app.callback(invoke_without_command=True)
def _root(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        version()
        raise typer.Exit


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 it did not work, 2 it was asked for wrongly."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters of what it says, we say, in one line
    try:
        app()
    except (InvalidInput, SettingsError) as error:
        sys.exit(_complain(error, 2))
    except Interrupted as error:
        sys.exit(_complain(error, 130))
    except OfframpError as error:
        sys.exit(_complain(error, 1))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has what they wanted
        sys.exit(1)
    except OSError as error:
        code = 2 if error.filename else 1  # a path that was given cannot be used; else a disk is full, and the like
        sys.exit(_complain(OfframpError(f"{error.filename or 'system'}: {error.strerror or error}"), code))


app.command("run", epilog=testbed_up.RUN_EPILOG)(testbed_up.run)
app.command("up", epilog=testbed_up.UP_EPILOG)(testbed_up.up)
app.command("chaos", epilog=chaos.EPILOG)(chaos.chaos)
app.command("watch", epilog=watch.EPILOG)(watch.watch)


@app.command(epilog="Example: offramp infer digit.png --target 127.0.0.1:8001")
def infer(
    files: Annotated[list[Path], typer.Argument(help="Images (.png, .jpg) or arrays (.npy).", metavar="FILE…")],
    target: Annotated[str, typer.Option("--target", help="The device agent, HOST:PORT.")] = "127.0.0.1:8001",
    model: Annotated[str, typer.Option("--model", help="Name of the model; none: the one that is served.")] = "",
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, max=3600, help="Seconds for each answer.")] = 10.0,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a running device agent about images: label, confidence, tier, exit and where the time went."""
    from testbed import ask

    how = asking(target, ca, cert, key, token_file)
    found = wait_for(ask.ask(target, model, files, timeout, how.credentials, how.token))
    if as_json:
        print(json.dumps([ask.as_json(file, answer) for file, answers in found for answer in answers], indent=2))
        return
    console = Console()
    for file, answers in found:
        console.print(ask.shown(file, answers))


@app.command(epilog="Example: offramp train --dataset mnist --data data/mnist --out models/mnist")
def train(
    dataset: Annotated[DatasetName, typer.Option("--dataset", help="What to train on.")] = DatasetName.digits,
    out: Annotated[Path, typer.Option("--out", help="Directory of the bundle to write.")] = Path("out/bundle"),
    data: DataOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Most epochs; none: the recipe's.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of everything drawn.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train a three-exit network, calibrate it, and write it as a bundle with its model card."""
    from testbed import learn

    places.folder(out)
    learn.train(dataset.value, out, data, epochs, seed, resume, Console())


@app.command(epilog="Example: offramp calibrate models/mnist --data data/mnist --epsilon 0.001")
def calibrate(
    bundle: BundleArgument,
    data: SamplesOption = None,
    epsilon: Annotated[
        float | None,
        typer.Option("--epsilon", min=0, max=1, help="Accuracy that may be lost; none: the recipe's, else 0.005."),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option("--delta", min=1e-6, max=0.5, help="Chance that it is more; none: the recipe's, else 0.05."),
    ] = None,
    codecs_only: Annotated[
        bool, typer.Option("--codecs-only", help="Measure what codecs cost; leave the exits alone.")
    ] = False,
) -> None:
    """Find temperatures and thresholds of a bundle's exits and what codecs cost, on labelled images; store it."""
    from testbed import learn

    if codecs_only and not (epsilon is delta is None):
        raise InvalidInput("--codecs-only leaves the exits alone: leave it out, or --epsilon and --delta")
    if codecs_only:
        learn.calibrate_codecs(bundle, data, Console())
    else:
        learn.calibrate(bundle, data, epsilon, delta, Console())


@app.command("eval", epilog="Example: offramp eval models/mnist --data data/mnist --json")
def evaluate(
    bundle: BundleArgument,
    data: SamplesOption = None,
    codec: Annotated[str, typer.Option("--codec", help="Codec of the activations.")] = "int8+zstd",
    as_json: JsonOption = False,
) -> None:
    """Accuracy with and without exits on the test split, where answers come from, and bytes per hop."""
    from testbed import learn

    found = learn.evaluate(bundle, data, codec)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        Console().print(learn.shown(found))


@app.command(epilog="Example: offramp inspect models/digits --json")
def inspect(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Show a bundle's split points, exits, calibration curves, hashes and sizes; verifies it on the way."""
    from testbed import inspection

    if as_json:
        print(json.dumps(inspection.as_json(bundle), indent=2))
    else:
        Console().print(inspection.shown(bundle))


app.command("partition", epilog=partition.EPILOG)(partition.partition)
app.command("profile", epilog=profile.EPILOG)(profile.profile)
app.command("explain", epilog=explain.EPILOG)(explain.explain)
app.command("privacy", epilog=privacy.EPILOG)(privacy.privacy)
app.command("certs", epilog=certs.EPILOG)(certs.certs)
paper.register(app)
app.add_typer(bench.app, name="bench")


@app.command(epilog="Example: offramp health --addr 127.0.0.1:8001 --service readiness")
def health(
    addr: Annotated[str, typer.Option("--addr", help="Address of the tier, HOST:PORT.")] = "127.0.0.1:8001",
    service: Annotated[str, typer.Option("--service", help="Service to ask about; none: the whole server.")] = "",
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait.")] = 2.0,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
) -> None:
    """Ask a tier whether it serves: exit code 0 if it does, 1 if not."""
    from testbed import checking

    status = checking.status(addr, service, timeout, asking(addr, ca, cert, key).credentials)
    print(status)
    if status != "SERVING":
        raise typer.Exit(1)


@app.command(epilog="Example: offramp version")
def version() -> None:
    """Print the version."""
    print(metadata.version("offramp"))


def _complain(error: Exception, code: int) -> int:
    print(f"offramp: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
