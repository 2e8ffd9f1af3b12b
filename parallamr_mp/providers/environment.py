"""What the environment says about the way to a server: proxies and certificates."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from urllib3.util.ssl_ import create_urllib3_context

from parallamr_mp.errors import BadInput
from parallamr_mp.providers.endpoints import url_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def ca_bundle(env: Mapping[str, str]) -> tuple[str, str] | None:
    """The user's own certificate authorities: (path, name of the variable), or None.

    The first of `CA_VARIABLES` that is set counts. Raises `BadInput` when
    nothing is at its path: a run must not fall back to other authorities.
    """
    for variable in CA_VARIABLES:
        path = env.get(variable, "").strip()
        if path:
            path = os.path.expanduser(path)
            if not os.path.exists(path):
                raise BadInput(f"{variable} names no file or folder: {path}")
            return path, variable
    return None


def tls_context(path: str, source: str) -> ssl.SSLContext:
    """Trusts the authorities in the file or folder at `path`. Raises `BadInput`, naming `source`."""
    context = create_urllib3_context()
    try:
        if os.path.isdir(path):
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"{source} holds no certificates that can be read: {path} ({error})") from None
    return context


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """Which proxy, if any, a URL is reached through; settled once, at start.

    Values of `by_scheme` are proxy URLs and may hold a password: never show
    them. Safe from any thread.
    """

    by_scheme: Mapping[str, str] = field(repr=False)
    """Proxy URL by scheme of the target; `all` stands for every other scheme."""
    bypass: tuple[str, ...] = ()
    """Hosts that are reached directly, as NO_PROXY names them, in lower case."""

    def for_url(self, url: str) -> str | None:
        """The proxy's URL for `url`, or None: go there directly."""
        if not self.by_scheme:
            return None
        target = urlsplit(url)
        proxy = self.by_scheme.get(target.scheme) or self.by_scheme.get("all")
        return None if proxy is None or self._is_bypassed(target) else proxy

    def secrets(self) -> tuple[str, ...]:
        """What must never be shown of the proxies' users and passwords."""
        return tuple(secret for url in self.by_scheme.values() for secret in url_secrets(url))

    def _is_bypassed(self, target: SplitResult) -> bool:
        host = (target.hostname or "").rstrip(".")
        port = target.port or _DEFAULT_PORTS.get(target.scheme)
        return any(_covers(entry, host, port) for entry in self.bypass)


def proxy_rules(env: Mapping[str, str]) -> ProxyRules:
    """Reads HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case.

    The small letters win where both are set, as curl has it. Raises `BadInput`
    for a proxy without a host, naming the variable and not its value.
    """
    by_scheme = {}
    for scheme in ("http", "https", "all"):
        variable = f"{scheme}_proxy"
        value = _either_case(env, variable)
        if value:
            proxy = value if "://" in value else f"http://{value}"
            if not _has_host(proxy):
                raise BadInput(f"{variable.upper()} is not the URL of a proxy")
            by_scheme[scheme] = proxy
    bypass = _either_case(env, "no_proxy").lower().replace(",", " ").split()
    return ProxyRules(by_scheme, tuple(bypass))


def _either_case(env: Mapping[str, str], variable: str) -> str:
    return (env.get(variable) or env.get(variable.upper()) or "").strip()


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _covers(entry: str, host: str, port: int | None) -> bool:
    """Whether one NO_PROXY entry means this host: `*`, a domain and all below it, an address, a network."""
    if entry == "*":
        return True
    name, _, wanted_port = entry.rpartition(":")
    if name and wanted_port.isdecimal() and (":" not in name or name.endswith("]")):
        if int(wanted_port) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        domain = entry.removeprefix("*").strip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
