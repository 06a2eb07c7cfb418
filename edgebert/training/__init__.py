"""Training: labelled text, what a student is asked to match, and the loop that asks it."""
