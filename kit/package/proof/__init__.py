"""What a bundle says of itself, and why it can be believed: origin, rules, parts, signature."""
