"""What a network is trained to do. Each objective is a module with `prepare(images, keys)` and `loss(batch)`."""
