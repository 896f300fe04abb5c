"""What is followed over a stream: the price of a token, the share of each patch, a drift."""
