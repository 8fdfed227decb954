"""The networks that ship beside the ViTs, a CNN and a Mixer: `python -m lib.training.others` trains and evaluates them."""
