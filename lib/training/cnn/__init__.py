"""The CNN that ships beside the ViTs: `python -m lib.training.cnn` trains, evaluates and packs it."""
