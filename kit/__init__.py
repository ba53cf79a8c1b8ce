"""Everything before the contest: data, training, launching, packaging. May import `submission`."""
