"""What providers that talk HTTP have in common: settings from the environment, and their session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parallamr_mp.errors import BadInput
from parallamr_mp.providers.endpoints import split_base_urls
from parallamr_mp.providers.http import HttpClient, make_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import requests


class Connection:
    """A client over the session that was injected, or over one of its own, closed with it.

    `secrets` as in `HttpClient`.
    """

    def __init__(
        self,
        session: requests.Session | None,
        threads: int,
        timeout: float,
        env: Mapping[str, str],
        *,
        secrets: Iterable[str] = (),
    ) -> None:
        self._session = make_session(threads, env) if session is None else session
        self._is_own = session is None
        self.client = HttpClient(self._session, timeout, secrets)

    def close(self) -> None:
        """Ends what is its own. Idempotent."""
        self.client.close()
        if self._is_own:
            self._session.close()


def setting(given: str | None, env: Mapping[str, str], variable: str) -> str | None:
    """An argument, or the environment's value where there is none; blank means not set."""
    value = env.get(variable) if given is None else given
    return (value or "").strip() or None


def url_from(given: str | None, env: Mapping[str, str], variable: str) -> str | None:
    """As `setting`, for a base URL: the first one where the variable holds several."""
    if given is not None:
        return setting(given, env, variable)
    return next(iter(split_base_urls(env.get(variable, ""))), None)


def key_from(given: str | None, env: Mapping[str, str], variable: str) -> str | None:
    """As `setting`, for what goes into a header. Raises `BadInput`, without the value."""
    key = setting(given, env, variable)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise BadInput(f"{variable} holds characters that no key has (a line break, an accent, a quote?)")
    return key
