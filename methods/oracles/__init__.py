"""Networks that learnt from masks: what a reader asks about first, reported outside the ranking."""
