"""Every reply is checked before it may touch the model."""
