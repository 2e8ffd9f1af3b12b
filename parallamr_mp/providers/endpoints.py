"""Base URLs: taken apart once, joined with paths, shown without what they may hide."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, unquote_plus, urlencode, urlsplit

from parallamr_mp.errors import BadInput

_BETWEEN = re.compile(r"\s*,\s*(?=https?://)", re.IGNORECASE)
"""Where one URL of a list ends and the next begins: a comma within a path is none of those."""
_SECOND_HOST = re.compile(r",[^/,]*:\d+(?:/|$)")
"""What no path holds but one with a second URL in it that lacks its scheme."""
_SECRET_WORDS = ("key", "token", "secret", "sig", "password", "code")


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """Where an API lives. `shown` is fit for messages and rows: no credentials, no query."""

    shown: str
    query: str = field(default="", repr=False)
    user_info: str | None = field(default=None, repr=False)
    """`user:password` as it stood in the URL, decoded."""

    @property
    def host(self) -> str:
        """The host's name in lower case, without port."""
        return urlsplit(self.shown).hostname or ""

    def join(self, path: str) -> str:
        """The URL to send to: base, `path` (starting with a slash), and the base's own query."""
        return f"{self.shown}{path}?{self.query}" if self.query else f"{self.shown}{path}"

    def with_query(self, name: str, value: str) -> BaseUrl:
        """The same base that also sends `name=value`, unless it has a value for `name` already."""
        pairs = parse_qsl(self.query, keep_blank_values=True)
        if any(present == name for present, _ in pairs):
            return self
        return BaseUrl(self.shown, urlencode([*pairs, (name, value)]), self.user_info)

    def basic_auth(self) -> str | None:
        """The Authorization header that the URL's own user and password ask for, or None."""
        if self.user_info is None:
            return None
        return "Basic " + base64.b64encode(self.user_info.encode()).decode("ascii")

    def secrets(self) -> tuple[str, ...]:
        """What must never be shown: the password, and query values whose name speaks of a key."""
        found = list(query_secrets(self.query))
        if self.user_info is not None:
            user, _, password = self.user_info.partition(":")
            found += secrets_of(user, password)
        return tuple(value for value in found if value)


def split_base_urls(value: str) -> tuple[str, ...]:
    """The URLs of a list with commas between them, as a variable may hold it; a single URL as it is."""
    return tuple(url for part in _BETWEEN.split(value) if (url := part.strip().rstrip(",").rstrip()))


def parse_base_url(value: str, variable: str) -> BaseUrl:
    """Takes one base URL apart. A trailing slash does not matter.

    Raises `BadInput` that names `variable` when the value is no http(s) URL
    with a host. The value is not repeated: it may hold a password.
    """
    text = value.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise BadInput(f"{variable} is not a URL", hint=_HINT) from None
    if parts.scheme not in {"http", "https"} or "://" not in text:
        raise BadInput(f"{variable} has to start with http:// or https://", hint=_HINT)
    host = parts.hostname
    if not host or any(character.isspace() for character in text):
        raise BadInput(f"{variable} is not a URL with a host", hint=_HINT)
    if "," in host or _SECOND_HOST.search(parts.path):
        raise BadInput(f"{variable}: each of several URLs has to start with http:// or https://", hint=_HINT)
    user_info = None
    if parts.username is not None:
        user_info = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    location = f"[{host}]" if ":" in host else host
    if port is not None:
        location += f":{port}"
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    return BaseUrl(f"{parts.scheme}://{location}{path}", parts.query, user_info)


def secrets_of(user: str, password: str) -> tuple[str, ...]:
    """What must never be shown of a user and password: the latter, and both as they are sent.

    A user without a password is a token.
    """
    both = f"{user}:{password}"
    # `requests` writes Latin-1, we write UTF-8; the padding at the end may get lost.
    sent = [base64.b64encode(both.encode(charset, "replace")).decode() for charset in ("utf-8", "latin-1")]
    encoded = {form for code in sent for form in (code, code.rstrip("="))}
    return (password or user, both, *sorted(encoded))


def query_secrets(query: str) -> tuple[str, ...]:
    """The values of a URL's query whose name speaks of a key; both as written and as meant."""
    found = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if value and any(word in unquote_plus(name).lower() for word in _SECRET_WORDS):
            found += [unquote_plus(value), value]
    return tuple(found)


def url_secrets(url: str) -> tuple[str, ...]:
    """`secrets_of` a URL that holds a user, such as a proxy's; both as written and as meant."""
    try:
        parts = urlsplit(url)
        user, password = parts.username or "", parts.password or ""
    except ValueError:
        return (url,)
    if not user and not password:
        return ()
    return (*secrets_of(unquote(user), unquote(password)), *secrets_of(user, password))


def shown_url(url: str) -> str:
    """A URL fit for messages: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return "(an unreadable URL)"
    host = f"[{host}]" if ":" in host else host
    scheme = f"{parts.scheme}://" if host else ""
    return f"{scheme}{host}{port}{parts.path}"


_HINT = "for example http://localhost:8000/v1"
