"""The network of the paper: model cards, the U-Net, what goes in, and what its field becomes."""
