"""Results against the truth: figures with their intervals, the baseline by composition, drawings."""
