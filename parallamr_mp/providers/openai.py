"""OpenAI, Azure OpenAI, and every server that speaks OpenAI's chat completions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from parallamr_mp.errors import MissingKey
from parallamr_mp.providers.chat_completions import ChatCompletions, ChatCompletionsProvider
from parallamr_mp.providers.connection import Connection, key_from, setting, url_from
from parallamr_mp.providers.endpoints import BaseUrl, parse_base_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

    from parallamr_mp.providers.base import ProviderSettings

DEFAULT_BASE_URL = "https://api.openai.com/v1"


class OpenAIProvider(ChatCompletionsProvider):
    """Asks an OpenAI-compatible server; safe from many threads, over one session.

    What is None is read from `env` (None: `os.environ`): OPENAI_API_KEY,
    OPENAI_BASE_URL (the first one of a list), OPENAI_ORG_ID, OPENAI_API_VERSION.
    A base URL makes the key optional. Azure is meant when the host ends in `.azure.com`, when there
    is an API version, or when OPENAI_API_TYPE is `azure`: it gets the key in
    an `api-key` header and the version in the query. Raises `MissingKey` and
    `BadInput`. `timeout` is the total of seconds per request. An injected
    session is used for every request and never closed; without one a session
    for `threads` threads is made, and closed by `close`.
    """

    def __init__(
        self,
        *,
        timeout: float = 300.0,
        session: requests.Session | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        api_version: str | None = None,
        threads: int = 8,
        env: Mapping[str, str] | None = None,
    ) -> None:
        env = os.environ if env is None else env
        url = url_from(base_url, env, "OPENAI_BASE_URL")
        key = key_from(api_key, env, "OPENAI_API_KEY")
        organization = setting(organization, env, "OPENAI_ORG_ID")
        version = setting(api_version, env, "OPENAI_API_VERSION")
        base = parse_base_url(url or DEFAULT_BASE_URL, "OPENAI_BASE_URL")
        if key is None and url is None:
            raise MissingKey(
                "OPENAI_API_KEY is not set",
                hint="Set it in the environment or in .env. For a server without keys, set OPENAI_BASE_URL.",
            )
        azure = (
            base.host.endswith(".azure.com")
            or version is not None
            or env.get("OPENAI_API_TYPE", "").strip().lower() == "azure"
        )
        if version is not None:
            base = base.with_query("api-version", version)
        self._has_key = key is not None
        self._connection = Connection(session, threads, timeout, env, secrets=[key or "", *base.secrets()])
        self._api = ChatCompletions(
            self._connection.client,
            base,
            _headers(base, key, organization, azure=azure),
        )

    @classmethod
    def from_settings(cls, settings: ProviderSettings) -> OpenAIProvider:
        """The factory named by the entry point."""
        return cls(
            timeout=settings.timeout,
            session=settings.session,
            base_url=settings.base_url,
            threads=settings.threads,
            env=settings.env,
        )

    def __repr__(self) -> str:
        key = "with a key" if self._has_key else "without a key"
        return f"<OpenAIProvider {self._api.base.shown} {key}>"


def _headers(base: BaseUrl, key: str | None, organization: str | None, *, azure: bool) -> dict[str, str]:
    headers = {}
    if key is not None:
        headers = {"api-key": key} if azure else {"Authorization": f"Bearer {key}"}
    elif (basic := base.basic_auth()) is not None:
        headers = {"Authorization": basic}
    if organization is not None:
        headers["OpenAI-Organization"] = organization
    return headers
