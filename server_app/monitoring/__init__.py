"""What a running run shows: live page, metrics, TensorBoard and others."""
