"""Line ends by bit masks: one bit for each octet of a block of 64, so that a whole block is judged by a few operations.

Invariant: an LF stands directly behind every CR and nowhere else, or the text is refused; the answer does not depend on
how the text was cut into calls. Neighbours: `http1` parses the lines, `octets` makes the masks.

An octet's bit moves up by one to meet what must follow it; what leaves the block at bit 63 is carried into the next.
There is a branch for each block and none for each line: line lengths are what a processor cannot guess.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from router.native.octets cimport count_bits, line_masks, lowest_bit

cdef enum:
    LF = 10
    CR = 13


cdef int64_t find_blank_line(const uint8_t* buffer, size_t position, size_t limit) noexcept nogil:
    cdef uint64_t cr, lf, wrong, blank, ends
    cdef uint32_t bit
    # A CR is blank when its line is empty: the LF behind it ends the head.
    cdef uint64_t after_lf = position == 0 or buffer[position - 1] == LF
    cdef uint64_t after_cr = position > 0 and buffer[position - 1] == CR
    cdef uint64_t after_blank_cr = after_cr and (position == 1 or buffer[position - 2] == LF)
    while position < limit:
        wrong = 0
        if line_masks(buffer, position, limit, &cr, &lf):
            wrong = nul_mask(buffer, position, limit)
        wrong |= lf ^ (cr << 1 | after_cr)
        if limit - position < 64:
            wrong &= (<uint64_t>1 << (limit - position)) - 1  # what follows a CR at the limit has not come yet
        blank = cr & (lf << 1 | after_lf)
        ends = lf & (blank << 1 | after_blank_cr)
        if wrong | ends:
            bit = lowest_bit(wrong | ends)
            return -1 if wrong >> bit & 1 else <int64_t>(position + bit + 1)
        after_lf = lf >> 63
        after_cr = cr >> 63
        after_blank_cr = blank >> 63
        position += 64
    return 0


cdef uint64_t nul_mask(const uint8_t* buffer, size_t position, size_t limit) noexcept nogil:
    cdef uint64_t mask = 0
    cdef size_t at
    for at in range(position, limit if limit - position < 64 else position + 64):
        if buffer[at] == 0:
            mask |= <uint64_t>1 << (at - position)
    return mask


cdef bint index_lines(const uint8_t* buffer, size_t length_bytes, lines_t* lines) noexcept nogil:
    cdef size_t position = 0
    cdef uint64_t cr, lf, wrong, after_cr = 0
    cdef uint32_t at, base, count
    # The last LF is what the lines' parser relies on to stop.
    lines.count = 0
    lines.has_controls = False
    if length_bytes < 2 or buffer[length_bytes - 2] != CR or buffer[length_bytes - 1] != LF:
        return False
    while position < length_bytes:
        if line_masks(buffer, position, length_bytes, &cr, &lf):
            lines.has_controls = True
        wrong = lf ^ (cr << 1 | after_cr)
        if length_bytes - position < 64:
            wrong &= (<uint64_t>1 << (length_bytes - position)) - 1
        if wrong:
            return False
        after_cr = cr >> 63
        position += 64
        if lines.count > LINES_MAX:
            continue
        # Four without asking how many there are: a branch on that would be guessed wrong at most blocks.
        base = <uint32_t>(position - 64)
        count = count_bits(cr)
        at = 0
        while True:
            lines.ends[lines.count + at] = base + lowest_bit(cr | <uint64_t>1 << 63)
            cr &= cr - 1
            lines.ends[lines.count + at + 1] = base + lowest_bit(cr | <uint64_t>1 << 63)
            cr &= cr - 1
            lines.ends[lines.count + at + 2] = base + lowest_bit(cr | <uint64_t>1 << 63)
            cr &= cr - 1
            lines.ends[lines.count + at + 3] = base + lowest_bit(cr | <uint64_t>1 << 63)
            cr &= cr - 1
            at += 4
            if at >= count:
                break
        lines.count += count
    return True
