"""Types of the peer's door; what it does is told in peer.pyx."""

class Peer:
    def __init__(self, engines_per_group: int, connection_count_max: int, group_count: int = 1) -> None: ...
    def engine_ports(self, group: int = 0) -> list[int]: ...
    @property
    def counts(self) -> dict[str, int]: ...
    @property
    def errors(self) -> dict[str, int]: ...
    def use_messages(
        self,
        *,
        request: bytes,
        asked: bytes,
        answer: bytes,
        answered: bytes,
        get_answer: bytes,
        opening: bytes,
        event: bytes,
        event_payload: bytes,
        ending: bytes,
        ending_payload: bytes,
        is_streaming: bool,
    ) -> None: ...
    def open_clients(
        self,
        port: int,
        count: int,
        *,
        uses_tls: bool = False,
        is_verbatim: bool = True,
        asks_again: bool = True,
        pace: str = "held",
        interval_ms: float = 0.0,
        events_per_stream: int = 0,
        group: int = 0,
    ) -> None: ...
    def run(
        self,
        seconds_max: float,
        *,
        requests: int = 0,
        events: int = 0,
        streams: int = -1,
        engine_streams: int = -1,
        all_resting: bool = False,
        records_latency: bool = False,
    ) -> bool: ...
    def finish_streams(self) -> None: ...
    def stop_asking(self) -> None: ...
    def close_clients(self) -> None: ...
    def latencies_us(self) -> list[float]: ...
