"""How the requests of a row begin, for endpoints that keep what they have computed of a beginning.

vLLM, SGLang and llama.cpp keep the attention keys and values of earlier requests and skip computing
them again for a request that begins alike. Rows whose texts agree from the start on should meet at one
endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from parallamr_mp.models import Inputs
from parallamr_mp.prompts import Template

LENGTHS = (16_000, 4_000, 1_000)
"""Characters that are compared. Less than the last, some 250 tokens, is not worth a detour."""


def prefixes(model: str, inputs: Inputs, values: Mapping[str, str]) -> tuple[int, ...]:
    """A mark of the request's beginning for each of `LENGTHS` that it reaches, the longest first.

    Equal beginnings have equal marks within one process; the model belongs to
    it. Costs some 10 µs a row.
    """
    text = _beginning(inputs, values)
    return tuple(hash((model, text[:length])) for length in LENGTHS if len(text) >= length)


def _beginning(inputs: Inputs, values: Mapping[str, str]) -> str:
    """The first characters in the order in which a server reads them: system text, prompt, documents."""
    templates = _templates(inputs)
    text = ""
    for template in templates:
        if len(text) >= LENGTHS[0]:
            break
        text += template.beginning(values, LENGTHS[0] - len(text)) + "\0"
    return text


@lru_cache(maxsize=16)
def _templates(inputs: Inputs) -> tuple[Template, ...]:
    system = [] if inputs.system is None else [inputs.system]
    return tuple(Template(text) for text in (*system, inputs.prompt, *(text for _, text in inputs.documents)))
