"""What learnt from masks, or asks a network that did: what a reader asks about first, reported outside the ranking."""
