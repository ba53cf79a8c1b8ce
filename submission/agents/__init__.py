"""How a sample is written: in one go, or in rounds of thought, code and its output."""
