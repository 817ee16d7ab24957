"""Which clients there are, who may take part, and messages to them."""
