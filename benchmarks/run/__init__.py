"""`python -m benchmarks.run`: a bundle's contests and samples on problem sets, with what they are worth."""
