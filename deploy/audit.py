"""Asks the advisory service about everything the image installs. `python deploy/audit.py PIP_AUDIT`.

Exit codes: 0 nothing known that is not excepted, or the service cannot be reached, which is said; 1 findings.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOCKS = (HERE / "requirements.lock", HERE / "build.lock")
EXCEPTIONS = HERE / "audit-exceptions.txt"
_SECONDS = 300
_OFFLINE = ("Could not connect", "ConnectionError", "timed out", "Temporary failure in name resolution")


class Unreachable(Exception):
    """The advisory service cannot be asked."""


def main() -> int:
    excepted = exceptions(EXCEPTIONS.read_text())
    try:
        found = [finding for lock in LOCKS for finding in findings(asked(sys.argv[1], lock))]
    except Unreachable as error:
        print(f"the advisory service cannot be reached, so nothing was audited: {error}")
        return 0
    open_ones = {name: text for name, text in found if name not in excepted}
    for name, reason in excepted.items():
        known = dict(found).get(name)
        print(f"excepted: {known or name + ' is not found any more, take it out'}; {reason}")
    print("\n".join(open_ones.values()) or "no known vulnerability")
    return 1 if open_ones else 0


def asked(pip_audit: str, lock: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each package in `lock`. Raises Unreachable."""
    command = [pip_audit, "--requirement", str(lock), "--require-hashes", "--disable-pip", "--format", "json"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        if any(said in done.stderr for said in _OFFLINE):
            raise Unreachable(done.stderr.strip().splitlines()[-1]) from None
        raise SystemExit(f"pip-audit failed: {done.stderr[-2000:]}") from None
    if packages and all("skip_reason" in package for package in packages):
        raise Unreachable(f"it knows none of the {len(packages)} packages in {lock.name}")
    return packages


def findings(packages: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """(identifier, sentence) of each; a package that the service passed over alone is one, too."""
    found = []
    for package in packages:
        name = package["name"]
        if "skip_reason" in package:
            found.append((name, f"{name} was not audited: {package['skip_reason']}"))
        for each in package.get("vulns", ()):
            fixed = ", ".join(each["fix_versions"]) or "no version"
            found.append((each["id"], f"{name} {package['version']}: {each['id']}, fixed in {fixed}"))
    return found


def exceptions(text: str) -> dict[str, str]:
    """By identifier, the reason why it is borne. Raises SystemExit for one without a reason."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for line in lines:
        if len(line) != 2:
            raise SystemExit(f"{EXCEPTIONS.name}: {line[0]} has no reason")
    return {line[0]: line[1] for line in lines}


if __name__ == "__main__":
    sys.exit(main())
