"""A snapshot built aside, while the one in force goes on serving, with everything that activating it takes.

The worker's loop carries traffic and this work in turn, so that it is cut into steps: a generator that yields after so
many endpoints, whatever their number. What cannot be cut (certificates to load, rings to build) is yielded as a
callable that needs the interpreter for moments only, for another thread. Invariant: nothing that is in force changes
here; endpoints that stay what they were are taken over with their connections, and `set_figures`, which the step of
the activation calls, is a loop over structs.

Neighbours: routes (the snapshot itself), pool (endpoints), _fastpath.Core (activates), router/steps.py (takes steps).
"""

from functools import partial

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from router.native.learner cimport Learner, learner_set_figures, read_figures
from router.native.pool cimport Endpoint
from router.native.prefix cimport prefix_table_t
from router.native.prefix_cache cimport prefix_set_capacity
from router.native.routes cimport Snapshot

from router.native.pool import context_of

cdef enum:
    ENDPOINTS_PER_STEP = 64          # some 0.5 ms


cdef class Preparation:
    """Empty until `preparing` has run, for tables with so many slots."""

    def __cinit__(self, uint32_t slot_count):
        self.slot_count = slot_count
        self.snapshot, self.endpoints, self.by_url, self.kinds = Snapshot(), {}, {}, set()

    def __dealloc__(self):
        free(self.figures)

    def preparing(self, tables, dict known, dict addresses, canary=None, double canary_ratio=0.0):
        """Makes it of a router.snapshot.Tables, and perhaps another for a share of the sessions, the endpoints in force
        by identity, and the addresses found so far by URL; a step each time it is gone on with. What it yields, if not
        None, is work that may be done on another thread before the next step. Raises ValueError, MemoryError.
        """
        cdef Snapshot other
        variants = (tables,) if canary is None else (canary, tables)     # of what both have, the last figures hold
        entries = [entry for variant in variants for entry in variant.endpoints]
        self.figures = <slot_figures_t*>calloc(len(entries) + 1, sizeof(slot_figures_t))
        if self.figures == NULL:
            raise MemoryError
        contexts = {}                # by TLS settings: endpoints that have the same share one
        for index, entry in enumerate(entries):
            if entry.identity not in self.endpoints:
                endpoint = known.get(entry.identity)
                if endpoint is None:
                    if entry.tls is not None and as_key(entry.tls) not in contexts:
                        yield partial(load_context, contexts, entry.tls)
                    endpoint = Endpoint(entry, None if entry.tls is None else contexts[as_key(entry.tls)])
                    if not entry.addresses and entry.url in addresses:
                        endpoint.set_addresses(addresses[entry.url])
                self.endpoints[entry.identity] = endpoint
                self.by_url.setdefault(entry.url, []).append(endpoint)
            self.add_figures(entry)
            if index % <int>ENDPOINTS_PER_STEP == <int>ENDPOINTS_PER_STEP - 1:
                yield None
        yield from self.snapshot.building(tables, self.endpoints)
        if canary is not None:
            other = Snapshot()
            yield from other.building(canary, self.endpoints)
            self.snapshot.share_with(other, canary_ratio)
        self.kinds = {choice.policy.kind for variant in variants for choice in (*variant.pools, *variant.routes)
                      if choice.policy is not None}
        self.candidate_count_max = max(
            [len(pool.endpoints) for variant in variants for pool in variant.pools], default=0)
        self.prompt_block_bytes = tables.prompt_block_bytes

    cdef add_figures(self, entry):
        if not 0 <= entry.slot < self.slot_count:
            raise ValueError(
                f"endpoint {entry.name}: the tables have {self.slot_count} slots, and none is {entry.slot}")
        self.figures[self.figure_count].slot = entry.slot
        read_figures(&self.figures[self.figure_count].figures, entry.figures)
        self.figure_count += 1

    cdef void set_figures(self, Learner learner, prefix_table_t* prefix) noexcept:
        cdef uint32_t index
        cdef slot_figures_t* entry
        for index in range(self.figure_count):
            entry = &self.figures[index]
            learner_set_figures(&learner.learner, entry.slot, &entry.figures)
            prefix_set_capacity(prefix, entry.slot, <uint32_t>entry.figures.kv_capacity_tokens)


def as_key(tls) -> tuple:
    """What makes two TLS settings share a context: all but the name that is verified, which is a connection's."""
    return tls.verify, tls.ca_file, tls.cert, tls.key


def load_context(dict contexts, tls) -> None:
    """Reads the files of TLS settings into `contexts`. Raises ValueError."""
    contexts[as_key(tls)] = context_of(tls)


def at_once(steps):
    """What a generator of steps returns, all its work done here and now: for tests, and before there is traffic."""
    while True:
        try:
            work = next(steps)
        except StopIteration as end:
            return end.value
        if work is not None:
            work()
