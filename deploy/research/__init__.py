"""Commands for researchers: what there is to choose, many runs, and what came of them."""
