"""`offramp`: the command line. Each command imports what it needs when it runs, so that `health` starts fast."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Coroutine
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from services.errors import InvalidInput, OfframpError, SettingsError

if TYPE_CHECKING:
    from testbed.local import TestbedSettings

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="One neural network over device, edge and cloud: early exits, compressed activations, a measured split.",
)

BundleArgument = Annotated[Path, typer.Argument(help="Directory of the bundle.", metavar="BUNDLE")]
BundleOption = Annotated[Path, typer.Option("--bundle", envvar="OFFRAMP_BUNDLE", help="Directory of the bundle.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Directory of the data set's files.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where summary, pictures and logs go.")]
DeviceEdgeOption = Annotated[str, typer.Option("--device-edge", help="Link device-edge: RATE,RTT.")]
EdgeCloudOption = Annotated[str, typer.Option("--edge-cloud", help="Link edge-cloud: RATE,RTT.")]
PortOption = Annotated[
    int | None,
    typer.Option("--port", min=1, max=65535, help="Port of the public door; none: 8001 when serving, else a free one."),
]
SplitsOption = Annotated[
    str | None,
    typer.Option("--splits", envvar="OFFRAMP_SPLITS", help="The two split points, e.g. 7,14; none: after exits."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of the order of requests and of the links' jitter.")
]


class Interrupted(OfframpError):
    """Ctrl-C or SIGTERM."""


class DatasetName(StrEnum):
    """Data sets there are loaders for."""

    digits = "digits"
    mnist = "mnist"
    fashion_mnist = "fashion-mnist"


@app.callback(invoke_without_command=True)
def _root(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        version()
        raise typer.Exit


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 it did not work, 2 it was asked for wrongly."""
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
        sys.exit(_complain(OfframpError(f"{error.filename or 'system'}: {error.strerror or error}"), 2))


@app.command(epilog="Example: offramp run --edge-cloud 5mbit,80ms")
def run(
    bundle: BundleOption = Path("models/digits"),
    out: OutOption = Path("out/run"),
    serve: Annotated[bool, typer.Option("--serve", help="Leave the tiers up until Ctrl-C; send nothing.")] = False,
    port: PortOption = None,
    device_edge: DeviceEdgeOption = "20mbit,10ms",
    edge_cloud: EdgeCloudOption = "50mbit,40ms",
    data: DataOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most inputs to send.")] = 1000,
    in_flight: Annotated[int, typer.Option("--in-flight", min=1, max=256, help="Requests at a time.")] = 1,
    splits: SplitsOption = None,
    seed: SeedOption = 0,
) -> None:
    """Start three tiers and two emulated links, send held-out inputs, show what happened."""
    from services.bundle import load
    from testbed import demo, report
    from testbed.samples import held_out

    console = Console()
    settings = _testbed_settings(bundle, device_edge, edge_cloud, port, splits, seed, out, serve)
    if serve:
        _await(demo.serve(settings, console))
        return
    split = held_out(load(bundle), data, limit)
    summary = _await(demo.demonstrate(settings, split, out, in_flight, console))
    console.print(report.table(summary))
    console.print(
        f"accuracy {summary['accuracy']:.2%} (whole network {summary['full_model_accuracy']:.2%}), "
        f"{summary['failed']} failed, plan {summary['plan']}\n"
        f"wrote {out / 'summary.json'}, {out / 'exits.png'}, {out / 'journey.png'}"
    )
    if summary["failed"]:
        raise OfframpError(f"{summary['failed']} requests failed; the logs are in {settings.logs}")


@app.command(epilog="Example: offramp up --bundle models/mnist --port 8001")
def up(
    bundle: BundleOption = Path("models/digits"),
    out: OutOption = Path("out/run"),
    port: PortOption = None,
    device_edge: DeviceEdgeOption = "20mbit,10ms",
    edge_cloud: EdgeCloudOption = "50mbit,40ms",
    splits: SplitsOption = None,
    seed: SeedOption = 0,
) -> None:
    """Start three tiers and two emulated links and leave them up until Ctrl-C."""
    from testbed import demo

    settings = _testbed_settings(bundle, device_edge, edge_cloud, port, splits, seed, out, serve=True)
    _await(demo.serve(settings, Console()))


@app.command(epilog="Example: offramp infer digit.png --target 127.0.0.1:8001")
def infer(
    files: Annotated[list[Path], typer.Argument(help="Images (.png, .jpg) or arrays (.npy).", metavar="FILE…")],
    target: Annotated[str, typer.Option("--target", help="The device agent, HOST:PORT.")] = "127.0.0.1:8001",
    model: Annotated[str, typer.Option("--model", help="Name of the model; none: the one that is served.")] = "",
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, max=3600, help="Seconds for each answer.")] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running device agent about images: label, confidence, tier, exit and where the time went."""
    from testbed import ask

    found = _await(ask.ask(target, model, files, timeout))
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
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything drawn.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train a three-exit network, calibrate it, and write it as a bundle with its model card."""
    from testbed import learn

    learn.train(dataset.value, out, data, epochs, seed, resume, Console())


@app.command(epilog="Example: offramp calibrate models/mnist --data data/mnist --epsilon 0.001")
def calibrate(
    bundle: BundleArgument,
    data: DataOption = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", min=0, max=1, help="Accuracy that may be lost; none: the recipe's.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", min=1e-6, max=0.5, help="Chance that it is more; none: the recipe's.")
    ] = None,
) -> None:
    """Find temperatures and thresholds of a bundle's exits anew, on the calibration split, and store them."""
    from testbed import learn

    learn.calibrate(bundle, data, epsilon, delta, Console())


@app.command("eval", epilog="Example: offramp eval models/mnist --data data/mnist --json")
def evaluate(
    bundle: BundleArgument,
    data: DataOption = None,
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


@app.command(
    epilog="Example: offramp partition model.onnx --out models/mine --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
)
def partition(
    model: Annotated[Path, typer.Argument(help="An ONNX classifier.", metavar="MODEL.onnx")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the bundle to write.")] = Path("out/bundle"),
    output: Annotated[str | None, typer.Option("--output", help="The output to keep, where there are several.")] = None,
    mean: Annotated[str | None, typer.Option("--mean", help="Per channel, of pixels in 0..1; with --std.")] = None,
    std: Annotated[str | None, typer.Option("--std", help="Per channel, of pixels in 0..1; with --mean.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find every place where an ONNX classifier can be split, and write it as a bundle. No retraining."""
    from testbed import adopt, inspection

    adopted = adopt.adopt(model, out, output, adopt.preprocessing(mean, std))
    if as_json:
        print(json.dumps(inspection.as_json(out) | {"notes": adopted.notes}, indent=2))
        return
    console = Console()
    console.print(inspection.shown(out))
    for note in adopted.notes:
        console.print(f"note: {note}")
    console.print(f"wrote {out}; serve it with: offramp up --bundle {out}")


@app.command(epilog="Example: offramp health --addr 127.0.0.1:8001 --service readiness")
def health(
    addr: Annotated[str, typer.Option("--addr", help="Address of the tier, HOST:PORT.")] = "127.0.0.1:8001",
    service: Annotated[str, typer.Option("--service", help="Service to ask about; none: the whole server.")] = "",
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait.")] = 2.0,
) -> None:
    """Ask a tier whether it serves: exit code 0 if it does, 1 if not."""
    from testbed import checking

    status = checking.status(addr, service, timeout)
    print(status)
    if status != "SERVING":
        raise typer.Exit(1)


@app.command(epilog="Example: offramp version")
def version() -> None:
    """Print the version."""
    print(metadata.version("offramp"))


def _testbed_settings(
    bundle: Path,
    device_edge: str,
    edge_cloud: str,
    port: int | None,
    splits: str | None,
    seed: int,
    out: Path,
    serve: bool,
) -> TestbedSettings:
    from testbed.local import LinkAsked, TestbedSettings

    default_port = 8001 if serve else 0
    return TestbedSettings(
        bundle,
        LinkAsked.parse(device_edge),
        LinkAsked.parse(edge_cloud),
        f"127.0.0.1:{default_port if port is None else port}",
        splits,
        seed,
        out / "logs",
    )


def _await(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`; SIGTERM ends it as Ctrl-C does, so that nothing it started is left behind."""

    async def interruptible() -> T:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(interruptible())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Interrupted("interrupted") from None


def _complain(error: Exception, code: int) -> int:
    print(f"offramp: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
