"""`parallamr-mp init`: example files to start from."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from parallamr_mp.errors import BadInput, OutputExists

_EXPERIMENTS = """\
provider,model,topic,audience,param:temperature
mock,mock,photosynthesis,a child of six,0.2
mock,mock,photosynthesis,a botanist,0.2
mock,mock,compound interest,a child of six,0.2
mock,mock,compound interest,a banker,0.2
mock,mock-large,photosynthesis,a child of six,0.9
mock,mock-large,compound interest,a banker,0.9
"""

_PROMPT = """\
Explain {{topic}} to {{audience}} in two sentences.
"""

_CONTEXT = """\
House style: short sentences, no jargon that {{audience}} would not know.
"""

_ENV = """\
# Copy to .env and fill in what you use. Variables that are set already win.

# openai: OpenAI and every compatible server (vLLM, llama.cpp, Azure, ...).
# The key is optional when a base URL is set.
#OPENAI_API_KEY=
#OPENAI_BASE_URL=http://localhost:8000/v1

#OPENROUTER_API_KEY=

#OLLAMA_BASE_URL=http://localhost:11434
"""


def init(
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The example table; the other files go beside it."
        ),
    ] = "experiments.csv",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Write example files to start from.

    A table, a prompt, a context and .env.example, ready to run on the mock provider.
    """
    if output.lower().endswith((".jsonl", ".ndjson")):
        raise BadInput("the example table is CSV", file=output, hint="Give -o a name that ends in .csv.")
    folder = os.path.dirname(output)
    files = {
        output: _EXPERIMENTS,
        os.path.join(folder, "prompt.txt"): _PROMPT,
        os.path.join(folder, "context.txt"): _CONTEXT,
        os.path.join(folder, ".env.example"): _ENV,
    }
    if not overwrite:
        for path in files:
            if os.path.exists(path):
                raise OutputExists(
                    f"{path}: exists already",
                    hint="Nothing was written. Give --overwrite to replace it, or another -o.",
                )
    try:
        if folder:
            os.makedirs(folder, exist_ok=True)
        for path, text in files.items():
            with open(path, "w", encoding="utf-8", newline="") as stream:
                stream.write(text)
    except OSError as error:
        raise BadInput(f"cannot be written: {error.strerror}", file=str(error.filename)) from None
    for path in files:
        typer.echo(f"wrote {path}")
    names = [os.path.join(folder, name) for name in ("prompt.txt", "context.txt", "results.csv")]
    typer.echo(f"\nNext:\n  parallamr-mp run -p {names[0]} -e {output} -c {names[1]} -o {names[2]}")
