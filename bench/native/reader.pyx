"""Reads one HTTP/1.1 message as it arrives, holding its body against a template.

The load generator uses it for answers, its fixed-answer engines for requests. It is no conforming parser: it knows what
the measured proxies send and calls everything else broken, so that a proxy that drops, doubles or reframes bytes shows
up as an error and not as speed. Payload is compared byte for byte, whatever chunks it was cut into.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy
from posix.strings cimport strncasecmp


cdef void reader_reset(reader_t* self, bint is_response, template_t* template) noexcept nogil:
    self.phase = READ_HEAD
    self.is_response = is_response
    self.keeps_alive = 1
    self.is_get = 0
    self.newline_before = 0
    self.in_last = 0
    self.is_changed = 0
    self.head_new = 0
    self.head_bytes = 0
    self.status = 0
    self.event_count = 0
    self.place = 0
    self.left_bytes = 0
    self.payload_bytes = 0
    self.template = template


cdef bint _is_field(const char* line, size_t line_bytes, const char* name, size_t name_bytes) noexcept nogil:
    return line_bytes > name_bytes and line[name_bytes] == c":" and strncasecmp(line, name, name_bytes) == 0


cdef bint _value_holds(const char* line, size_t line_bytes, const char* word, size_t word_bytes) noexcept nogil:
    cdef size_t at
    for at in range(line_bytes - word_bytes + 1 if line_bytes >= word_bytes else 0):
        if strncasecmp(line + at, word, word_bytes) == 0:
            return True
    return False


cdef bint _value_number(const char* line, size_t line_bytes, size_t at, uint64_t* number) noexcept nogil:
    cdef uint64_t value = 0
    cdef bint any_digit = False
    while at < line_bytes and (line[at] == c" " or line[at] == c"\t"):
        at += 1
    while at < line_bytes and c"0" <= line[at] <= c"9":
        value = value * 10 + <uint64_t>(line[at] - c"0")
        any_digit = True
        at += 1
    number[0] = value
    return any_digit


cdef void _read_head(reader_t* self) noexcept nogil:
    """Sets the phase that the finished head calls for."""
    cdef const char* line = self.head
    cdef const char* end = self.head + self.head_bytes - 2        # the empty line
    cdef const char* line_end
    cdef size_t line_bytes
    cdef bint is_first = True, is_chunked = False, has_length = False
    cdef uint64_t length_bytes = 0, status = 0
    self.head_new = 1
    while line < end:
        line_end = <const char*>memchr(line, b"\r", end - line + 2)
        if line_end == NULL:
            self.phase = READ_BROKEN
            return
        line_bytes = line_end - line
        if is_first:
            is_first = False
            if self.is_response:
                if (line_bytes < 12 or memcmp(line, b"HTTP/1.1 ", 9) != 0
                        or not _value_number(line, line_bytes, 9, &status)):
                    self.phase = READ_BROKEN
                    return
                self.status = <uint32_t>status
            else:
                self.is_get = line_bytes > 4 and memcmp(line, b"GET ", 4) == 0
                if line_bytes > 8 and memcmp(line + line_bytes - 8, b"HTTP/1.0", 8) == 0:
                    self.keeps_alive = 0
        elif _is_field(line, line_bytes, b"content-length", 14):
            has_length = _value_number(line, line_bytes, 15, &length_bytes)
        elif _is_field(line, line_bytes, b"transfer-encoding", 17):
            is_chunked = _value_holds(line + 18, line_bytes - 18, b"chunked", 7)
        elif _is_field(line, line_bytes, b"connection", 10):
            if _value_holds(line + 11, line_bytes - 11, b"close", 5):
                self.keeps_alive = 0
        line = line_end + 2
    if self.is_response and 100 <= self.status < 200:            # informational: the final head follows
        self.head_bytes = 0
        self.head_new = 0
        self.phase = READ_HEAD
    elif is_chunked:
        self.phase = READ_CHUNK_SIZE
        self.left_bytes = 0
        self.place = 0
    elif has_length:
        self.left_bytes = length_bytes
        self.phase = READ_LENGTH if length_bytes else READ_DONE
    elif self.is_response:
        self.keeps_alive = 0
        self.phase = READ_TO_CLOSE
    else:
        self.phase = READ_DONE


cdef size_t _feed_head(reader_t* self, const char* data, size_t size_bytes) noexcept nogil:
    cdef size_t taken = 0
    cdef const char* found
    cdef size_t piece
    while taken < size_bytes:
        found = <const char*>memchr(data + taken, b"\n", size_bytes - taken)
        piece = (found - data - taken + 1) if found != NULL else size_bytes - taken
        if self.head_bytes + piece > HEAD_BYTES_MAX:
            self.phase = READ_BROKEN
            return taken
        memcpy(self.head + self.head_bytes, data + taken, piece)
        self.head_bytes += <uint32_t>piece
        taken += piece
        if self.head_bytes >= 4 and memcmp(self.head + self.head_bytes - 4, b"\r\n\r\n", 4) == 0:
            _read_head(self)
            return taken
    return taken


cdef void _count_events(reader_t* self, const char* data, size_t size_bytes) noexcept nogil:
    """An event ends at an empty line, wherever the payload was cut."""
    cdef const char* at = data
    cdef const char* end = data + size_bytes
    while at < end:
        if self.newline_before:
            if at[0] == c"\n":
                self.event_count += 1
                self.newline_before = 0
                at += 1
                continue
            if at[0] == c"\r":                                    # some routers write CRLF lines
                at += 1
                continue
            self.newline_before = 0
        at = <const char*>memchr(at, b"\n", end - at)
        if at == NULL:
            return
        self.newline_before = 1
        at += 1


cdef void _compare(reader_t* self, const char* data, size_t size_bytes) noexcept nogil:
    """Holds payload against the template: `body` over and over (or once), then `last`."""
    cdef template_t* template = self.template
    cdef const char* part
    cdef size_t part_bytes, piece, taken = 0
    while taken < size_bytes and not self.is_changed:
        part = template.last if self.in_last else template.body
        part_bytes = template.last_bytes if self.in_last else template.body_bytes
        if self.place == part_bytes:
            if self.in_last or template.last == NULL:
                self.is_changed = 1                               # more than there should be
                return
            self.place = 0
        piece = part_bytes - self.place
        if piece > size_bytes - taken:
            piece = size_bytes - taken
        if memcmp(data + taken, part + self.place, piece) != 0:
            # The body's next copy may be the ending instead: they differ after a common beginning.
            if (self.in_last or template.last == NULL or self.place >= template.last_bytes
                    or memcmp(template.body, template.last, self.place) != 0):
                self.is_changed = 1
                return
            self.in_last = 1
            continue
        self.place += <uint32_t>piece
        taken += piece


cdef void _payload(reader_t* self, const char* data, size_t size_bytes) noexcept nogil:
    self.payload_bytes += size_bytes
    if self.template == NULL:
        return
    if self.is_response:
        _count_events(self, data, size_bytes)
    if not self.is_changed:
        _compare(self, data, size_bytes)


cdef int _hex_digit(char digit) noexcept nogil:
    if c"0" <= digit <= c"9":
        return digit - c"0"
    if c"a" <= digit <= c"f":
        return digit - c"a" + 10
    if c"A" <= digit <= c"F":
        return digit - c"A" + 10
    return -1


cdef size_t reader_feed(reader_t* self, const char* data, size_t size_bytes) noexcept nogil:
    cdef size_t taken = 0, piece
    cdef int digit
    cdef char byte
    while taken < size_bytes and self.phase < READ_DONE:
        if self.phase == READ_HEAD:
            taken += _feed_head(self, data + taken, size_bytes - taken)
            if self.phase == READ_CHUNK_SIZE:
                self.head_bytes = 0                               # from here: characters of the size line
        elif self.phase == READ_LENGTH or self.phase == READ_CHUNK_DATA or self.phase == READ_TO_CLOSE:
            piece = size_bytes - taken
            if self.phase != READ_TO_CLOSE:
                if piece > self.left_bytes:
                    piece = self.left_bytes
                self.left_bytes -= piece
            _payload(self, data + taken, piece)
            taken += piece
            if self.left_bytes == 0:
                if self.phase == READ_LENGTH:
                    self.phase = READ_DONE
                elif self.phase == READ_CHUNK_DATA:
                    self.phase = READ_CHUNK_END
        else:
            byte = data[taken]
            taken += 1
            if self.phase == READ_CHUNK_SIZE:
                digit = _hex_digit(byte)
                if digit >= 0 and self.head_bytes < 15:
                    self.left_bytes = self.left_bytes * 16 + <uint64_t>digit
                    self.head_bytes += 1
                elif byte == c"\n" and self.head_bytes > 0:
                    self.phase = READ_CHUNK_DATA if self.left_bytes else READ_TRAILER
                    self.head_bytes = 0
                elif byte != c"\r":
                    self.phase = READ_BROKEN                      # no measured proxy sends chunk extensions
            elif self.phase == READ_CHUNK_END:
                if byte == c"\n":
                    self.phase = READ_CHUNK_SIZE
                elif byte != c"\r":
                    self.phase = READ_BROKEN
            elif byte == c"\n":                                   # READ_TRAILER: head_bytes is the line's length
                if self.head_bytes == 0:
                    self.phase = READ_DONE
                self.head_bytes = 0
            elif byte != c"\r":
                self.head_bytes += 1
    return taken


cdef bint reader_at_end_of_stream(reader_t* self) noexcept nogil:
    return self.phase == READ_TO_CLOSE


cdef bint reader_is_whole(reader_t* self) noexcept nogil:
    if self.phase != READ_DONE and self.phase != READ_TO_CLOSE:
        return False
    if self.template == NULL:
        return True
    if self.is_changed:
        return False
    if self.template.last == NULL:
        return self.place == self.template.body_bytes
    return self.in_last and self.place == self.template.last_bytes


def read_message(pieces: list[bytes], is_response: bool, body: bytes, last: bytes | None = None) -> dict[str, object]:
    """The reader's verdict on a message that arrives in these pieces: the door for tests."""
    cdef reader_t reader
    cdef template_t template
    cdef bytes piece
    cdef size_t taken = 0, size_bytes = 0
    template.body = body
    template.body_bytes = <uint32_t>len(body)
    template.last = <const char*>last if last is not None else NULL
    template.last_bytes = <uint32_t>len(last) if last is not None else 0
    reader_reset(&reader, is_response, &template)
    for piece in pieces:
        size_bytes += len(piece)
        taken += reader_feed(&reader, piece, len(piece))
    return {
        "phase": reader.phase,
        "is_whole": bool(reader_is_whole(&reader)),
        "is_changed": bool(reader.is_changed),
        "left_over_bytes": size_bytes - taken,
        "payload_bytes": reader.payload_bytes,
        "event_count": reader.event_count,
        "status": reader.status,
        "keeps_alive": bool(reader.keeps_alive),
    }
