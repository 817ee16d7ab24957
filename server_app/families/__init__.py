"""What the server halves of a family of methods share."""
