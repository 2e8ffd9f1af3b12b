#!/usr/bin/env python3
"""Writes a llama of random weights, well under 1 MB, that llama.cpp loads like any other model.

It answers with random English words, but everything around the words is real: a byte-level BPE tokenizer,
a ChatML template, usage counts, `stop` and `length`, grammars for JSON answers, context overflow.
The same arguments give the same bytes, on every machine.

    scripts/make_tiny_model.py OUT.gguf [--ctx 16384]      needs the packages gguf and numpy
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import gguf
import numpy as np

SEED = 20_250_101
WIDTH, HEADS, FEED_FORWARD = 64, 4, 128
BOS, EOS = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = """
the a one two three some many every this that these those and but or so because when while where if then
I you we they she he it who what there here now today always never often soon again still only also very
is was are were has have had can could will would should may might must do does did make made take took give
gave find found keep kept see saw know knew think thought say said ask asked answer answered write wrote read
run ran work worked grow grew turn turned move moved open opened close closed count counted
water light river stone tree forest mountain sea wind rain cloud star moon sun night day morning evening
year hour week house garden window door table paper book letter word story song music color sound silence
city street bridge train road market school friend child family people teacher farmer sailor doctor
number model machine engine theory result question reason sample measure experiment
small large old new young long short high low early late red green blue white black quiet loud warm cold
simple strange careful honest useful clear bright dark heavy sharp
in on at to from with without under over near between across through before after during about against
"""
WORDS = TEXT.split()


def byte_letters() -> list[str]:
    """GPT-2's alphabet: a printable letter for each of the 256 bytes, its own where that is printable."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def vocabulary() -> tuple[list[str], list[int], list[str]]:
    """Tokens, their types, and the merges that build each " word" from its letters, left to right.

    Only pieces that start with the blank's letter ever merge: so the order of the merges does not matter,
    and text that is no known word falls apart into single bytes, as it does in a real tokenizer.
    """
    tokens = [BOS, EOS, *byte_letters()]
    types = [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * 256
    known, merges = set(tokens), []
    blank = byte_letters()[ord(" ")]
    for word in WORDS:
        piece = blank
        for letter in word:
            merged = piece + letter
            if merged not in known:
                known.add(merged)
                tokens.append(merged)
                types.append(gguf.TokenType.NORMAL)
                merges.append(f"{piece} {letter}")
            piece = merged
    return tokens, [int(kind) for kind in types], merges


def likelihood(tokens: list[str]) -> np.ndarray:
    """How much more likely each token is than chance: whole words, some punctuation, now and then the end."""
    blank, newline = byte_letters()[ord(" ")], byte_letters()[ord("\n")]
    words = {blank + word for word in WORDS}
    bias = {
        **dict.fromkeys(words, 0.0),
        **dict.fromkeys('",.:{}[]0123456789', 0.0),
        newline: 0.0,
        EOS: 2.0,
        '"': 2.0,
    }
    return np.array([bias.get(token, -9.0) for token in tokens], dtype=np.float32)


def tensors(tokens: list[str]) -> dict[str, np.ndarray]:
    """One layer of noise. The first number of every embedding is the same: it carries the likelihoods."""
    random = np.random.default_rng(SEED)

    def noise(rows: int, columns: int, scale: float) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    embedding = noise(len(tokens), WIDTH, 1.0)
    embedding[:, 0] = 4.0
    output = noise(len(tokens), WIDTH, 0.12)
    output[:, 0] = likelihood(tokens) / 4.0
    ones = np.ones(WIDTH, dtype=np.float32)
    return {
        "token_embd.weight": embedding,
        "blk.0.attn_norm.weight": ones,
        "blk.0.attn_q.weight": noise(WIDTH, WIDTH, 0.1),
        "blk.0.attn_k.weight": noise(WIDTH, WIDTH, 0.1),
        "blk.0.attn_v.weight": noise(WIDTH, WIDTH, 0.1),
        "blk.0.attn_output.weight": noise(WIDTH, WIDTH, 0.1),
        "blk.0.ffn_norm.weight": ones,
        "blk.0.ffn_gate.weight": noise(FEED_FORWARD, WIDTH, 0.05),
        "blk.0.ffn_up.weight": noise(FEED_FORWARD, WIDTH, 0.05),
        "blk.0.ffn_down.weight": noise(WIDTH, FEED_FORWARD, 0.05),
        "output_norm.weight": ones,
        "output.weight": output,
    }


def write_model(path: Path, context: int) -> None:
    """Writes the model at once: another process that makes the same file at the same time does no harm."""
    tokens, types, merges = vocabulary()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index(BOS))
    writer.add_eos_token_id(tokens.index(EOS))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    for name, values in tensors(tokens).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--ctx", type=int, default=16_384, help="tokens of context the model says it has")
    options = parser.parse_args()
    write_model(options.out, options.ctx)


if __name__ == "__main__":
    main()
