"""Terms of R_h, each a scalar of one mini-batch; autograd gives the gradient."""
