"""Generates services/pb from proto/. With --check, only says whether what is there is what would be generated."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIER = "proto/offramp/v1/tier.proto"
PUBLIC = "proto/inference/open_inference.proto"
GENERATED = (
    *(f"services/pb/offramp/v1/tier_pb2{ending}" for ending in (".py", ".pyi", "_grpc.py")),
    "services/pb/inference.binpb",
)


def generate(out: Path) -> None:
    """Writes the stubs below `out`; -Iservices/pb=proto makes their imports work wherever they are installed."""
    (out / "services/pb").mkdir(parents=True, exist_ok=True)
    plugins = [f"--{plugin}_out={out}" for plugin in ("python", "pyi", "grpc_python")]
    _protoc("-Iservices/pb=proto", *plugins, TIER)
    _protoc("-Iproto", f"--descriptor_set_out={out / 'services/pb/inference.binpb'}", PUBLIC)


def stale() -> list[str]:
    """The generated files that differ from what their sources give."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        return [name for name in GENERATED if (ROOT / name).read_bytes() != (Path(folder) / name).read_bytes()]


def _protoc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    if "--check" in sys.argv:
        differing = stale()
        sys.exit(f"stale, run 'make proto': {', '.join(differing)}" if differing else 0)
    generate(ROOT)
