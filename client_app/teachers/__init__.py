"""Foundation models on the device: they answer once, are cached on its disk and never leave it."""
