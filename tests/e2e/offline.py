"""Runs a command where there is no network but loopback; prints at last how often somebody looked for a way out of it.

To be started in a network namespace of its own. The kernel counts each packet and connection for which it finds no
way, of whatever length: nothing is too short to be seen.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
from pathlib import Path

_SIOCSIFFLAGS = 0x8914
_UP, _RUNNING = 0x1, 0x40


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP | _RUNNING))


def sought() -> dict[str, int]:
    """What found no way out, by protocol, and datagrams, which nobody here has a use for."""
    names, numbers = (
        [line.split()[1:] for line in Path("/proc/self/net/snmp").read_text().splitlines() if line.startswith(kind)]
        for kind in ("Ip:", "Udp:")
    )
    old = {name: int(number) for each in (names, numbers) for name, number in zip(*each, strict=True)}
    new = dict(line.split() for line in Path("/proc/self/net/snmp6").read_text().splitlines())
    return {
        "without a way": old["OutNoRoutes"] + int(new["Ip6OutNoRoutes"]),
        "datagrams": old["OutDatagrams"] + int(new["Udp6OutDatagrams"]),
    }


if __name__ == "__main__":
    raise_loopback()
    ended = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    print(json.dumps({"code": ended.returncode, "said": ended.stderr.decode()[-2000:], "sought": sought()}))
