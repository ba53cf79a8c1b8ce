"""How an answer is read: found in a text, spelled canonically, worked out, compared symbolically."""
