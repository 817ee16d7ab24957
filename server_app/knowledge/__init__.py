"""R_h: what the private model knows, as a regularizer of the shared one."""
