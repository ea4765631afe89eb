"""Mock inference engines: a command (`cli`) and a fleet for tests and benches (`fleet`)."""
