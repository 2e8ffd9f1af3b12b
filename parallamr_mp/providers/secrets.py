"""What the environment holds that nobody else is to see, and the taking of it out of any text.

A provider knows its own key and hides it wherever it quotes a server. This is
for what no provider knows: the words of a plug-in's exception, a traceback, a
URL that turns up in somebody's error message. It goes by the names of
variables and by the users and passwords of URLs in their values.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from parallamr_mp.providers.endpoints import query_secrets, split_base_urls, url_secrets
from parallamr_mp.providers.failures import SHORTEST_SECRET, forms_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_TELLING = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?)[_\d]*$", re.IGNORECASE)
_WITHIN = re.compile(r"(?<![\w+.-])[a-z][a-z0-9+.-]*://\S*", re.IGNORECASE | re.ASCII)
"""A URL amid other words, as in `openai=http://user:password@host weight=2`."""
_SHORTEST_FOUND = 8
"""Shorter ones are words and switches: servers without keys are given `ollama`, `EMPTY` or `none`."""


def environment_secrets(env: Mapping[str, str]) -> frozenset[str]:
    """What is secret in these variables: keys by their names, users and passwords by their place in a URL."""
    found: set[str] = set()
    for name, value in env.items():
        text = value.strip()
        asked = name.upper().endswith(("_BASE_URL", "_PROXY", "PARALLAMR_ENDPOINT"))
        if "://" in text or asked:
            for part in {part for each in (text, *_WITHIN.findall(text)) for part in split_base_urls(each)}:
                url = part if "://" in part else f"http://{part}"
                found.update(query_secrets(url.partition("?")[2].partition("#")[0]))
                # Of our own URLs a user without a password is a token; of others, a name.
                if asked or ":" in url.partition("://")[2].rpartition("@")[0]:
                    found.update(url_secrets(url))
        elif _TELLING.search(name) and len(text) >= _SHORTEST_FOUND:
            found.add(text)
    return frozenset(found)


def route_secrets(urls: Iterable[str]) -> frozenset[str]:
    """What is secret in base URLs that were given by other ways than a variable."""
    found: set[str] = set()
    for url in urls:
        found.update(query_secrets(url.partition("?")[2].partition("#")[0]), url_secrets(url))
    return frozenset(found)


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that does what `redact` does with these secrets, fast enough for every row of a run.

    It remembers what it was asked: endpoints and reasons are the same in every row.
    """
    forms = {form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in forms_of(secret)}
    if not forms:
        return lambda text: text
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lru_cache(maxsize=128)(partial(pattern.sub, "[redacted]"))
