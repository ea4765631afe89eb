"""The learner as Python sees it: the supervisor creates it, workers give it figures, tests play histories."""

from typing import Protocol, TypedDict

from router.native.loadtable import LoadTable
from router.native.signals import SignalTable

class EngineFigures(Protocol):
    """What the configuration says of one endpoint's engine; seconds, tokens, one currency."""

    @property
    def engine_class(self) -> int: ...
    @property
    def token_s(self) -> float:
        """Prefill of one uncached token."""
    @property
    def pair_s(self) -> float:
        """Prefill of one pair of tokens (attention)."""
    @property
    def floor_s(self) -> float:
        """A decode step takes max(floor_s, base_s + token_s * streams) + context_s * tokens in KV."""
    @property
    def base_s(self) -> float: ...
    @property
    def context_s(self) -> float: ...
    @property
    def kv_capacity_tokens(self) -> float:
        """0: not known."""
    @property
    def input_price(self) -> float:
        """Per token."""
    @property
    def output_price(self) -> float: ...
    @property
    def second_price(self) -> float:
        """Of a second of the machine."""
    @property
    def rtt_s(self) -> float:
        """Round trip, until one is measured."""

class LearnerView(TypedDict):
    residual: float
    step_residual: float
    theta: list[float]
    sigma: float
    bias_s: float
    others_s: float
    is_partial: bool
    barrier: float
    power_barrier: float
    error: float
    ramp: float
    share_s: float
    slowness: float

class Learner:
    """What is known and learnt of all endpoints, shared between processes.

    Raises (every method with a slot): IndexError for one that is not there.
    """

    fd: int
    """The segment's descriptor, owned by the learner: pass it to children, do not close it."""
    @staticmethod
    def create(slot_count: int) -> Learner: ...
    @staticmethod
    def attach(fd: int) -> Learner:
        """What is behind a descriptor made by `create` elsewhere; `fd` stays the caller's.

        Raises: OSError; ValueError when it is no learner's, or one of another layout.
        """
    signals: SignalTable | None
    @property
    def slot_count(self) -> int: ...
    def set_figures(self, slot: int, figures: EngineFigures) -> None:
        """This process's own copy; out-of-range values are clamped."""
    def joined(self, slot: int, now_us: int) -> None:
        """An endpoint is new here, or back: it starts slowly and nothing learnt of it alone counts."""
    def listen(self, signals: SignalTable) -> None:
        """Signals count from the next refresh on. Raises: ValueError when they have fewer slots."""
    def first_token(
        self,
        slot: int,
        ttft_s: float,
        now_us: int,
        *,
        queued_s: float,
        work_s: float,
        decoding: float = 0,
        prompt_tokens: int = 0,
    ) -> None:
        """A first token came `ttft_s` after a pick that saw this much queued, for this much work. Of a
        longer prompt the rest was believed to be cached.
        """
    def failed(
        self, slot: int, elapsed_s: float, timeout_s: float, now_us: int, *, work_s: float
    ) -> None: ...
    def decoded(
        self, slot: int, gap_s: float, streams: float, kv_tokens: float, token_count: int, now_us: int
    ) -> None:
        """Tokens came `gap_s` apart with so many streams and so much KV there."""
    def output(self, output_key: int, output_tokens: int) -> None: ...
    def expected_output(self, output_key: int, output_tokens_max: int = -1) -> int:
        """Tokens of an answer under this key; a bound below 0 is none."""
    def prompt(self, model_hash: int, prompt_bytes: int, prompt_tokens: int) -> None: ...
    def prompt_tokens(self, model_hash: int, prompt_bytes: int) -> int:
        """Tokens that so many bytes of prompt will be; 0 for none."""
    def predict(self, slot: int, queued_s: float, work_s: float, decoding: float = 0) -> float:
        """TTFT in seconds, without the slot's residual and round trip."""
    def work(self, slot: int, prompt_tokens: float, uncached_tokens: float) -> float: ...
    def view(self, slot: int, now_us: int, load: LoadTable | None = None) -> LearnerView:
        """What a pick would read now."""
