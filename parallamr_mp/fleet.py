"""Where requests of each provider may go: its endpoints, from a file, the command line or the environment.

The file may change while a run is on, as a Slurm job adds or loses servers:

    # one endpoint a line
    openai=http://n1:8000/v1
    openai=http://n2:8000/v1 weight=2 concurrency=32 rpm=500 tpm=200k

Used by the parent alone, in the dispatcher's thread.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields

from parallamr_mp.config import EndpointSpec, RunConfig
from parallamr_mp.errors import BadInput
from parallamr_mp.providers.endpoints import parse_base_url, split_base_urls
from parallamr_mp.providers.registry import BASE_URL_VARIABLES, PLACELESS
from parallamr_mp.providers.secrets import route_secrets
from parallamr_mp.text import count, one_line

LOOK_SECONDS = 1.0
"""How often the endpoints file is looked at."""
_GONE_SECONDS = 30.0
"""A file that is missing or unreadable for longer than that is told of."""
_LARGEST = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([kM]?)", re.IGNORECASE | re.ASCII)
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6}
_ATTRIBUTES = ("weight", "concurrency", "rpm", "tpm")
_EXAMPLE = "for example openai=http://n1:8000/v1 weight=2 concurrency=32 rpm=500 tpm=200k"


def parse_endpoint(text: str, where: str) -> EndpointSpec:
    """One endpoint as people write it: `PROVIDER=URL`, then attributes with blanks between.

    Raises `BadInput` that names `where` (an option, a line of a file) and what
    was expected, and repeats nothing that might hold a password.
    """
    first, *rest = text.split() or [""]
    provider, equals, url = first.partition("=")
    if not equals or not _NAME.fullmatch(provider):
        raise BadInput(f"{where}: expected PROVIDER=URL", hint=_EXAMPLE)
    given: dict[str, float] = {}
    for attribute in rest:
        name, equals, value = attribute.partition("=")
        if not equals or name not in _ATTRIBUTES:
            raise BadInput(
                f"{where}: after the URL may follow {', '.join(f'{name}=' for name in _ATTRIBUTES)}"
                " and nothing else",
                hint=_EXAMPLE,
            )
        if name in given:
            raise BadInput(f"{where}: {name} is given twice")
        given[name] = _amount(name, value, where)
    most = given.get("concurrency")
    spec = EndpointSpec(
        provider,
        _canonical(url),
        weight=given.get("weight", 1.0),
        concurrency=None if most is None else int(most),
        rpm=given.get("rpm"),
        tpm=given.get("tpm"),
    )
    _check(spec, where)
    return spec


def _amount(name: str, text: str, where: str) -> float:
    found = _AMOUNT.fullmatch(text)
    value = float(found[1]) * _FACTORS[found[2].lower()] if found is not None else 0.0
    if not 0 < value < math.inf or (name == "concurrency" and value != int(value)):
        wish = "a whole number" if name == "concurrency" else "a number, such as 2, 0.5, 200k or 1M,"
        raise BadInput(f"{where}: {name} has to be {wish} above 0", hint=_EXAMPLE)
    return value


def _canonical(url: str) -> str:
    return url if "?" in url else url.rstrip("/")


def _check(spec: EndpointSpec, where: str) -> None:
    """Raises `BadInput` for a URL that cannot be asked."""
    if len(split_base_urls(spec.url)) > 1:
        raise BadInput(f"{where}: one URL each", hint="Give each endpoint of its own.")
    parse_base_url(spec.url, f"{where}: the URL of {spec.provider}")


class Fleet:
    """The endpoints of a run's providers, in the order in which they were given.

    What names a provider first counts for it: the endpoints file, the run's
    `endpoints`, the variable with its base URLs, and, without any of these,
    the provider itself: one endpoint with the URL `""`.

    The file decides for every provider that it names or has named, and as long
    as it has named none, for all that the run's `endpoints` do not name either:
    a server that is still to start must not be replaced by one that costs money.
    Of these `of` returns none at the moment.

    `known` are the names that may stand for a provider. Those of `fixed` bring
    their own way to a server, and are never told of another. Raises `BadInput`.
    """

    def __init__(
        self,
        config: RunConfig,
        env: Mapping[str, str],
        known: Collection[str],
        *,
        fixed: Collection[str] = (),
    ) -> None:
        self._known, self._fixed = frozenset(known), frozenset(fixed)
        self._notices: list[str] = []
        self._urls: set[str] = set()
        """Every one there has been: their secrets stay secret."""
        self._given = _grouped(self._checked((spec, "--endpoint") for spec in config.endpoints))
        self._env = env
        self._default: dict[str, tuple[EndpointSpec, ...]] = {}
        """By provider, made when it is first asked for: what is not used need not be right."""
        self._file = config.endpoints_file
        self._listed: dict[str, tuple[EndpointSpec, ...]] = {}
        self._named: set[str] = set()
        """Every provider that the file has named in this run."""
        self._text = b""
        """What the file held when it was last taken at its word, good or bad."""
        self._seen: bytes | None = b""
        """What it held at the last look; None: it could not be read."""
        self._next_look = -math.inf
        self._unread_since: float | None = None
        if self._file is not None:
            self._read_first(self._file)

    def of(self, provider: str) -> tuple[EndpointSpec, ...]:
        """The provider's endpoints; none at all: rows wait until the file names one.

        Raises `BadInput`, at the first call for a provider, when its variable holds no URLs.
        """
        if provider not in self._fixed:
            if provider in self._named:
                return self._listed.get(provider, ())
            if provider in self._given:
                return self._given[provider]
            if provider not in self._default:  # now, for it may count once the file names somebody else
                self._default[provider] = self._from_environment(provider)
            if self._file is not None and not self._named and provider not in PLACELESS:
                return ()
            return self._default[provider]
        return (EndpointSpec(provider, ""),)

    def reread(self, now: float) -> bool:
        """Looks at the endpoints file, about once a second, and returns whether `of` returns others now.

        `now` is monotonic, in seconds. What has changed counts once two looks
        have found the same: a file that is being written is let alone. One that
        is missing, or holds what makes no sense, changes nothing but is told of
        (`take_notices`). Never raises.
        """
        if self._file is None or now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        # The text itself and not its time and size: these may stay the same where clocks are coarse,
        # and over NFS only opening a file makes sure that they are not old.
        try:
            text = _read(self._file)
        except OSError as error:
            self._not_read(error.strerror or type(error).__name__, now)
            return False
        except BadInput as error:
            self._not_read(error.what, now)
            return False
        self._unread_since = None
        settled, self._seen = text == self._seen, text
        if not settled or text == self._text:
            return False
        self._text = text
        try:
            listed = self._parsed(self._file, text)
        except BadInput as error:
            what = str(error).partition("\n")[0]
            self._notices.append(f"{what}. Until that is mended its endpoints stay what they were.")
            return False
        return self._take(listed)

    def take_notices(self) -> list[str]:
        """What people should be told since the last call."""
        taken, self._notices = self._notices, []
        return taken

    def secrets(self) -> frozenset[str]:
        """What must never be shown of the endpoints there are and were."""
        return route_secrets(self._urls)

    def _read_first(self, path: str) -> None:
        try:
            self._text = self._seen = _read(path)
        except OSError as error:
            raise BadInput(
                f"cannot be read: {error.strerror}",
                file=path,
                hint="--endpoints-file: expected a file with one endpoint a line. It may be empty for now.",
            ) from None
        self._listed = self._parsed(path, self._text)
        self._named.update(self._listed)
        if not self._listed:
            self._notices.append(f"{path}: no endpoints yet; rows wait until it names some")

    def _not_read(self, reason: str, now: float) -> None:
        """A file that is replaced may be away for a moment, and a file server for a while."""
        self._seen = None
        if self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since >= _GONE_SECONDS:
            self._unread_since = math.inf  # told once
            self._notices.append(f"{self._file}: {reason}. Its endpoints stay what they were.")

    def _take(self, listed: dict[str, tuple[EndpointSpec, ...]]) -> bool:
        if listed == self._listed:
            return False
        before, after = _urls_of(self._listed), _urls_of(listed)
        self._listed = listed
        self._named.update(listed)
        change = [f"{len(after - before)} new"] if after - before else []
        change += [f"{len(before - after)} gone"] if before - after else []
        told = f"{self._file}: {count(len(after), 'endpoint')} now"
        told += f" ({', '.join(change)})" if change else ", in another order or with other attributes"
        self._notices.append(told if after else f"{told}; rows wait until it names some")
        return True

    def _parsed(self, path: str, content: bytes) -> dict[str, tuple[EndpointSpec, ...]]:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise BadInput("is not UTF-8 text", file=path) from None
        specs = []
        for number, line in enumerate(text.splitlines(), 1):
            stripped = line.strip()
            if stripped and not stripped.startswith("#"):
                where = f"{path}, line {number}"
                # Within a line a comment has a blank before it: a URL may hold a #.
                specs.append((parse_endpoint(re.split(r"\s#", stripped, maxsplit=1)[0], where), where))
        return _grouped(self._checked(specs))

    def _from_environment(self, provider: str) -> tuple[EndpointSpec, ...]:
        variable = BASE_URL_VARIABLES.get(provider, "")
        found: dict[object, EndpointSpec] = {}
        for url in split_base_urls(self._env.get(variable, "")):
            found.setdefault(parse_base_url(url, variable), EndpointSpec(provider, _canonical(url)))
        self._urls.update(spec.url for spec in found.values())
        return tuple(found.values()) or (EndpointSpec(provider, ""),)

    def _checked(self, specs: Iterable[tuple[EndpointSpec, str]]) -> list[EndpointSpec]:
        """Without those that are there already. Raises `BadInput` where two contradict each other."""
        found: dict[object, EndpointSpec] = {}
        for spec, where in specs:
            if spec.provider not in self._known:
                raise BadInput(
                    f"{where}: unknown provider {one_line(spec.provider, 40)!r}",
                    hint=f"known: {', '.join(sorted(self._known))}",
                )
            _check(spec, where)
            key = spec.provider, parse_base_url(spec.url, where)
            first = found.setdefault(key, spec)
            if differing := [name for name in _ATTRIBUTES if getattr(first, name) != getattr(spec, name)]:
                shown = key[1].shown
                raise BadInput(
                    f"{where}: {shown} is given twice for {spec.provider}, with different {differing[0]}",
                    hint="Remove one of them.",
                )
        self._urls.update(spec.url for spec in found.values())
        return list(found.values())


def _grouped(specs: Iterable[EndpointSpec]) -> dict[str, tuple[EndpointSpec, ...]]:
    groups: dict[str, list[EndpointSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.provider, []).append(spec)
    return {provider: tuple(group) for provider, group in groups.items()}


def _urls_of(listed: Mapping[str, Iterable[EndpointSpec]]) -> set[tuple[str, str]]:
    return {(spec.provider, spec.url) for specs in listed.values() for spec in specs}


def _read(path: str) -> bytes:
    """The file's bytes. Raises `OSError`, and `BadInput` for what is no list of endpoints by its kind."""
    # As an `opener`: who opens a folder by himself has to close it by himself, for `open` refuses it then.
    with open(path, "rb", opener=_open_at_once) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise BadInput("is no regular file: it could not be read again", file=path)
        content = stream.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise BadInput("is too long for a list of endpoints", file=path)
    return content


def _open_at_once(path: str, flags: int) -> int:
    # Not to wait for the writer of a pipe; of regular files it changes nothing.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def shown_settings(spec: EndpointSpec) -> dict[str, object]:
    """An endpoint for reading by people, without what is secret and what is not set."""
    told = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name != "url"}
    shown = {name: value for name, value in told.items() if value is not None}
    return {**shown, "url": parse_base_url(spec.url, "the URL").shown if spec.url else ""}
