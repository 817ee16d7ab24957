"""Ways to reach clients other than Flower's network."""
