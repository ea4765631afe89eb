"""A driver without sockets: a test says what arrives and sees what is sent."""

from libc.stdint cimport uint64_t
from router.native.buffer cimport buffer_t
from router.native.conn cimport conn_t, driver_t

cdef enum:
    SCRIPT_CONNS_MAX = 1024

cdef struct script_conn_t:
    conn_t* conn                     # NULL once the core has let go of it
    buffer_t waiting                 # sent in a batch that has not ended
    buffer_t sent                    # what the peer has been given and has not looked at
    long window                      # bytes the peer still takes; -1: any number
    unsigned char is_upstream
    unsigned char was_closed
    unsigned char was_aborted
    unsigned char sending_ended
    unsigned char port_low           # of the address that was connected to
    unsigned char port_high

cdef struct script_driver_t:
    driver_t base                    # first: a driver_t* is a script_driver_t*
    conn_t* closed
    unsigned int count
    unsigned char in_batch           # what is sent waits for the batch's end
    size_t round_trip_us
    script_conn_t conns[1024]        # SCRIPT_CONNS_MAX; conn.fd is the index

cdef class ScriptDriver:
    cdef script_driver_t script
    cdef object core                 # the Core that uses it, for its timers
    cdef script_conn_t* _at(self, int number) except NULL
