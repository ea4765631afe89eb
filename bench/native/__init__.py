"""The bench's native programs: load, cheap engines, the floor. A measured proxy runs none of them."""
