"""The embedded benchmark: a world drawn from a formula, its captions, questions and masks."""
