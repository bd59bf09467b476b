"""The difficulties of optimising deep networks (section 8.2): problems that have them, and how to see them."""
