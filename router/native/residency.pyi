"""The residency table as Python sees it: the supervisor creates it, workers and the simulator use it."""

class ResidencyTable:
    """Which models each endpoint should have in memory, shared between processes.

    A model is a hash below 2**64, 0 for none. Raises (every method with a slot): IndexError for one that is
    not there.
    """

    fd: int
    """The segment's descriptor, owned by the table: pass it to children, do not close it."""
    @staticmethod
    def create(slot_count: int) -> ResidencyTable:
        """A table that knows nothing. Raises: ValueError."""
    @staticmethod
    def attach(fd: int) -> ResidencyTable:
        """The table behind a descriptor made by `create` elsewhere; `fd` stays the caller's.

        Raises: OSError; ValueError when it is no residency table, or one of another layout.
        """
    @property
    def slot_count(self) -> int: ...
    def wait_s(self, slot: int, model: int, load_s: float, models_max: int, now_us: int) -> float:
        """Seconds until the model can answer there, if it was asked for now."""
    def harm_s(self, slot: int, model: int, load_s: float, models_max: int, now_us: int) -> float:
        """Seconds that the model it would drive out then costs those who ask for that one."""
    def is_resident(self, slot: int, model: int, models_max: int, now_us: int) -> bool:
        """Whether it is loaded, and among the `models_max` that were used last there."""
    def used(self, slot: int, model: int, load_s: float, wait_s: float, now_us: int) -> None:
        """A request for the model, which takes `load_s` to load, goes there and is served in `wait_s`."""
    def seen(self, slot: int, model: int, now_us: int) -> None:
        """The model has answered there."""
    def forget(self, slot: int) -> None:
        """Nothing is known of the slot."""
