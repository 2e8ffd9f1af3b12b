"""What figures depend on: the machine, and the versions of all that runs on it."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmark.contestants import versions_in

_TOLD_VERSIONS = (
    "parallamr-mp",
    "aiohttp",
    "uvloop",
    "httpx",
    "openai",
    "requests",
    "urllib3",
    "orjson",
    "pycurl",
)


def this_machine(pythons: Iterable[Path]) -> dict[str, Any]:
    """As it is now; `pythons` are those of the environments whose versions count."""
    versions: dict[str, str] = {}
    for python in dict.fromkeys(pythons):
        versions = versions_in(python, _TOLD_VERSIONS) | versions
    return {
        "processor": _processor(),
        "cores": cores(),
        "load": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "openssl": ssl.OPENSSL_VERSION,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "versions": versions,
    }


def told(machine: dict[str, Any]) -> str:
    """The same in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cores']} cores ({machine['processor']}), load {machine['load']:.1f} at the start; "
        f"{machine['system']}; {machine['python']}; {machine['openssl']}; {versions}; {machine['date']}"
    )


def cores() -> int:
    """Those that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
