"""The private pretrained model and all that needs it."""
