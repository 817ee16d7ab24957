"""The device's half of every method: ``train(down, device) -> Up``."""
