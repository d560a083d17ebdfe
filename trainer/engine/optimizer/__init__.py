"""How weights move where memory is short: rounded stochastically, in the backward pass."""
