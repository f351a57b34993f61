"""Codes of many words: a few numbers each, told apart when they are a little off.

A column of up to 20 words is learnt as one number a word. Of more, each word has a code of some 20
numbers, 0 or 1, and numbers stand for the word whose code is nearest. Cost of decoding: rows times
words times the length of a code.
"""

import functools
import hashlib

import numpy as np
from jaxtyping import Float, Int

MOST_CODED = 2_000  # words
CANDIDATES = 16  # codes that are tried for each word
CHUNK = 10_000  # rows that are compared with all codes at a time


def length(count: int) -> int:
    """Numbers in a code of one of `count` words: twice what would tell them apart."""
    return 2 * max(count - 1, 1).bit_length()


@functools.lru_cache(maxsize=64)
def codes(count: int) -> Float[np.ndarray, "word bit"]:
    """Codes of words 0 to `count` - 1, each as far from those before as the best of some.

    The same on every machine, since saved models hold the words alone.
    """
    bits = length(count)
    found = np.zeros((count, bits))
    for word in range(1, count):
        tried = np.stack([_bits(f"{word} {i}", bits) for i in range(CANDIDATES)])
        apart = np.abs(tried[:, None] - found[None, :word]).sum(-1).min(-1)
        found[word] = tried[apart.argmax()]
    if len(np.unique(found, axis=0)) < count:
        raise AssertionError("two words have one code")
    found.setflags(write=False)
    return found


def _bits(text: str, bits: int) -> Float[np.ndarray, " bit"]:
    digest = hashlib.blake2b(text.encode()).digest()
    return np.unpackbits(np.frombuffer(digest, np.uint8))[:bits].astype(np.float64)


def nearest(values: Float[np.ndarray, "row bit"], count: int) -> Int[np.ndarray, " row"]:
    """The number of the word whose code is nearest."""
    known = codes(count)
    found = np.empty(len(values), np.int64)
    for first in range(0, len(values), CHUNK):
        part = values[first : first + CHUNK]
        found[first : first + CHUNK] = (2 * part @ known.T - known.sum(1)).argmax(1)
    return found
