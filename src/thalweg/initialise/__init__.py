"""How parameters begin (section 8.4)."""
