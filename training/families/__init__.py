"""Published families of image classifiers, by name, as tables of blocks. Nothing here imports torch."""

from __future__ import annotations

from services.errors import InvalidInput
from training.families.architecture import Architecture
from training.families.efficientnet import efficientnets
from training.families.mobilenet import mobilenets
from training.families.resnet import resnets

FAMILIES: dict[str, Architecture] = {found.name: found for found in (*efficientnets(), *mobilenets(), *resnets())}


def architecture(name: str) -> Architecture:
    """The architecture called `name`. Raises InvalidInput listing those there are."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise InvalidInput(f"no network is called {name[:40]!r}; known: {', '.join(FAMILIES)}") from None
