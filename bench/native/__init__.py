"""The bench's native programs: load, cheap engines and the floor, none of which a measured proxy ever runs."""
