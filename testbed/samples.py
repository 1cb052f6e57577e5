"""The labelled inputs a bundle is shown with: its own held-out ones, or the test split of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TypeGuard

from services import bundle
from services.bundle import Bundle
from services.errors import InvalidInput
from training import datasets
from training.datasets import Split


def held_out(loaded: Bundle, data: Path | None, limit: int | None = None) -> Split:
    """The samples in the bundle, or with `data`, those of an .npz, or the test split of the bundle's own data set.

    Raises InvalidInput where there are none, BundleError where they are not what the manifest says.
    """
    if is_samples(data):
        split = datasets.mixed(datasets.read_samples(data, len(loaded.manifest.labels)))
    elif data is None and loaded.manifest.samples is not None:
        split = Split(*bundle.load_samples(loaded))
    elif data is None and loaded.manifest.name != "digits":
        raise InvalidInput(f"{loaded.path} carries no samples; give --data with the directory of its data set")
    else:
        split = datasets.mixed(datasets.load_test(dataset_of(loaded), data))
    return Split(split.images[:limit], split.labels[:limit])


def is_samples(data: Path | None) -> TypeGuard[Path]:
    """Whether `data` is a file of labelled images, and not the folder of a data set."""
    return data is not None and data.suffix == ".npz"


def dataset_of(loaded: Bundle) -> str:
    """The data set a bundle is named after. Raises InvalidInput where there is no loader for it."""
    name = loaded.manifest.name
    if name not in datasets.NAMES:
        raise InvalidInput(
            f"{loaded.path}: there is no loader for its data set; give --data with an .npz of labelled images"
        )
    return name
