"""Documents to chunks of a number of words: the chunker of DSIR's experiments, on offsets alone."""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from tamis.native.compiled import kernel

SPACE = np.uint8(0x20)


@kernel
def count_chunks(offsets, data, words, per_document):
    """Write the number of chunks of each document to ``per_document`` int64 [n]."""
    for document in range(len(per_document)):
        spaces = 0
        for k in range(offsets[document], offsets[document + 1]):
            spaces += data[k] == SPACE
        per_document[document] = spaces // words + 1


@kernel
def cut_chunks(offsets, data, words, cuts):
    """Write the start of every chunk, and the end of the last, to ``cuts`` int64 [m + 1].

    A chunk that is not a document's last ends after its ``words``-th space.
    """
    at = 0
    for document in range(len(offsets) - 1):
        cuts[at] = offsets[document]
        at += 1
        spaces = 0
        for k in range(offsets[document], offsets[document + 1]):
            if data[k] == SPACE:
                spaces += 1
                if spaces == words:
                    cuts[at] = k + 1
                    at += 1
                    spaces = 0
    cuts[at] = offsets[len(offsets) - 1]
