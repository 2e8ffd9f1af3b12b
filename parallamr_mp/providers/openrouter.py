"""OpenRouter: many providers' models behind one chat-completions API, with prices."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from parallamr_mp.errors import MissingKey
from parallamr_mp.providers.chat_completions import ChatCompletions, ChatCompletionsProvider
from parallamr_mp.providers.connection import Connection, key_from, url_from
from parallamr_mp.providers.endpoints import parse_base_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

    from parallamr_mp.providers.base import ProviderSettings

DEFAULT_BASE_URL = "https://openrouter.ai/api/v1"


class OpenRouterProvider(ChatCompletionsProvider):
    """Asks OpenRouter; safe from many threads, over one session.

    What is None is read from `env` (None: `os.environ`): OPENROUTER_API_KEY,
    which is required, and OPENROUTER_BASE_URL, the first one of a list. Raises `MissingKey` and
    `BadInput`. Every request asks for usage with its cost. Timeout and session
    as in `OpenAIProvider`.
    """

    def __init__(
        self,
        *,
        timeout: float = 300.0,
        session: requests.Session | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        threads: int = 8,
        env: Mapping[str, str] | None = None,
    ) -> None:
        env = os.environ if env is None else env
        key = key_from(api_key, env, "OPENROUTER_API_KEY")
        url = url_from(base_url, env, "OPENROUTER_BASE_URL")
        if key is None:
            raise MissingKey(
                "OPENROUTER_API_KEY is not set",
                hint="Set it in the environment or in a .env file. Keys: https://openrouter.ai/settings/keys",
            )
        base = parse_base_url(url or DEFAULT_BASE_URL, "OPENROUTER_BASE_URL")
        self._connection = Connection(session, threads, timeout, env, secrets=[key, *base.secrets()])
        self._api = ChatCompletions(
            self._connection.client,
            base,
            {"Authorization": f"Bearer {key}"},
            extra={"usage": {"include": True}},
        )

    @classmethod
    def from_settings(cls, settings: ProviderSettings) -> OpenRouterProvider:
        """The factory named by the entry point."""
        return cls(
            timeout=settings.timeout,
            session=settings.session,
            base_url=settings.base_url,
            threads=settings.threads,
            env=settings.env,
        )

    def __repr__(self) -> str:
        return f"<OpenRouterProvider {self._api.base.shown}>"
