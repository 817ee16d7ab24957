"""A few images to try the commands on."""
