"""Update weights where memory is short: rounded stochastically, in the backward pass."""
