"""The parts of consensus ADMM that AugFL is made of: duals, penalty, safeguard."""
