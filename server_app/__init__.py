"""What never leaves the server."""
