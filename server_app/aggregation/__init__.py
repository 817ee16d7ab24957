"""Sums and means over the replies of a round."""
